//! Flags of `visord doctor`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::ServeArgs;

/// Flags of `doctor`: those of `serve`, whose configuration it speaks of, and how it reports.
#[derive(Debug, Clone, Args)]
#[allow(rustdoc::invalid_html_tags, reason = "clap shows these texts on a terminal")]
pub struct DoctorArgs {
    #[allow(missing_docs, reason = "clap would show them")]
    #[command(flatten)]
    pub serve: ServeArgs,

    /// Report as one JSON document, for machines
    #[arg(long)]
    pub json: bool,

    /// Exit with 1 for warnings too, not only for what would keep `serve` from serving
    #[arg(long)]
    pub strict: bool,

    /// Only GET this http:// or https:// URL: exit with 0 where the answer is 200, else with 1 and one line. For the
    /// HEALTHCHECK of a container and exec probes, e.g. http://127.0.0.1:8002/v2/health/ready
    #[arg(long, value_name = "URL", conflicts_with_all = ["json", "strict"])]
    pub health: Option<String>,

    /// With --health, time for the whole of it, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, requires = "health",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_secs: u64,

    /// With --health, PEM file with the roots of an https:// server's certificate
    #[arg(long, value_name = "FILE", requires = "health")]
    pub tls_ca: Option<PathBuf>,
}
