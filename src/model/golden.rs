//! `golden.json`: inputs of a model version with the outputs that they must give.
