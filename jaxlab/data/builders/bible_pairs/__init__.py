"""bible_pairs: the Bible in three languages, aligned by verse."""
