"""textures: small patches of game textures, which show no object."""
