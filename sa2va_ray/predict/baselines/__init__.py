"""What Sa2VA is compared with: a U-Net and classical vessel filters, as predictors like any other."""
