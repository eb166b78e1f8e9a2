"""letters: A to J in 465 display fonts, as small as digits."""
