"""GigaGAN against gigagan-pytorch 0.3.0, and the image rate of the paper's size on a GPU."""
