//! The `visord` binary: parse, build, run, exit.
fn main() {}
