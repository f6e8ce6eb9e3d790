"""Where the images of a data set lie: one file for each form in which people keep them."""
