//! nvJPEG, opened at run time.
