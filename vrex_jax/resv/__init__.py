"""ReSV: hash-bit key clustering and weighted-cumulative-sum thresholding."""
