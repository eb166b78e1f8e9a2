"""digits: 1,797 handwritten digits of 8 by 8 pixels."""
