//! Build script: names the commit that the binary is built from.

use std::process::Command;

fn main() {
    commit();
}

/// Sets `VISORD_COMMIT` for `visord --version` and the build metric; a package build without git can set it
/// from outside.
fn commit() {
    println!("cargo::rerun-if-env-changed=VISORD_COMMIT");
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs/heads");
    #[allow(clippy::disallowed_methods, reason = "a build script is configured by cargo's environment")]
    let given = std::env::var("VISORD_COMMIT").ok();
    let commit = given.or_else(|| {
        let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    });
    println!("cargo::rustc-env=VISORD_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}
