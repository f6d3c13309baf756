//! `visord doctor`: what was found on this machine, what would be served on what, and what to do about each problem.

pub mod args;
pub mod health;
