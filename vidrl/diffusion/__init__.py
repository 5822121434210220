"""One denoising step as a Gaussian, and which pixel frames each latent frame and segment
stands for."""
