//! Small graphs, one for each rule.
