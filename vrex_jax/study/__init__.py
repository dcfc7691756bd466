"""What ReSV's choices do, measured on recorded streams."""
