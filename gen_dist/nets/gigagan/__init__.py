"""Networks and losses of GigaGAN: Kang et al. 2023, "Scaling up GANs for text-to-image synthesis"."""
