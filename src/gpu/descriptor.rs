//! What the preprocessing kernel is told of each image.
