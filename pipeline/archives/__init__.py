"""The images in tar and zip archives: where each lies, without unpacking anything."""
