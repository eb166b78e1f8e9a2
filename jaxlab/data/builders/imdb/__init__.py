"""imdb: 50,000 film reviews, for or against."""
