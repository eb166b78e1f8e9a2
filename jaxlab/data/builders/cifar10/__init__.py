"""cifar10: 60,000 small photographs in ten classes."""
