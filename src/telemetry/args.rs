//! Flags of what the server tells about itself: log, access log, summary line and traces.

use clap::Args;
use hyper::Uri;

use super::logging::LogFormat;
use crate::problems::Problems;

/// Longest `--otlp-service-name`, bytes: what trace stores show whole.
const MAX_SERVICE_NAME_BYTES: usize = 255;

/// Flags of log lines and traces.
#[derive(Debug, Clone, Args)]
#[allow(rustdoc::invalid_html_tags, reason = "clap shows these texts on a terminal")]
pub struct TelemetryArgs {
    /// Form of log lines, on standard error
    #[arg(long, env = "VISORD_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Log level, or a filter such as visord=debug,hyper=warn
    #[arg(long, env = "VISORD_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    pub log_level: String,

    /// Let requests change the log's level while the server runs (POST /v2/logging, LogSettings); reading it is always
    /// allowed
    #[arg(long, env = "VISORD_LOG_CONTROL", default_value_t = false, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub log_control: bool,

    /// Write a log line for each answered request
    #[arg(long, env = "VISORD_ACCESS_LOG", default_value_t = false, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub access_log: bool,

    /// Log a line for each model version every so often, seconds: rate, latency percentiles, stage means, idle share;
    /// 0 writes none
    #[arg(long, env = "VISORD_SUMMARY_INTERVAL_SECS", value_name = "SECONDS", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub summary_interval_secs: u64,

    /// Collector that traces go to, by OTLP over gRPC: http://host:4317, or https:// [default: no traces]
    #[arg(long, env = "VISORD_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// Share of the requests that are traced, 0 to 1, where no caller has decided; where `traceparent` comes along, its
    /// sampled flag decides
    #[arg(long, env = "VISORD_OTLP_SAMPLE_RATIO", value_name = "RATIO", default_value_t = 1.0,
          value_parser = ratio)]
    pub otlp_sample_ratio: f64,

    /// The service's name in traces
    #[arg(long, env = "VISORD_OTLP_SERVICE_NAME", value_name = "NAME", default_value = "visord")]
    pub otlp_service_name: String,
}

impl TelemetryArgs {
    /// Checks what clap cannot; every mistake lands in `problems`.
    pub fn check(&self, problems: &mut Problems) {
        if let Err(e) = tracing_subscriber::EnvFilter::try_new(&self.log_level) {
            problems.add("command line", "--log-level", &self.log_level, e);
        }
        if let Some(endpoint) = &self.otlp_endpoint
            && !is_endpoint(endpoint)
        {
            let allowed =
                "must be http:// or https://, a host, and mostly :4317, as in http://localhost:4317";
            problems.add("command line", "--otlp-endpoint", endpoint, allowed);
        }
        let name = &self.otlp_service_name;
        if name.is_empty() || name.len() > MAX_SERVICE_NAME_BYTES || name.chars().any(char::is_control) {
            let allowed = format!("must have from 1 to {MAX_SERVICE_NAME_BYTES} bytes, none of them control");
            problems.add("command line", "--otlp-service-name", name, allowed);
        }
    }
}

/// Whether this is an address of gRPC: a scheme and an authority, and nothing behind.
fn is_endpoint(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let host = uri.authority().is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'));
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    scheme && host && matches!(uri.path(), "" | "/") && uri.query().is_none()
}

fn ratio(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|r| (0.0..=1.0).contains(r)).ok_or_else(|| "must be from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_and_ratios() {
        let cases = [
            ("http://localhost:4317", true),
            ("https://collector.example/", true),
            ("http://[::1]:4317", true),
            ("localhost:4317", false),
            ("grpc://localhost:4317", false),
            ("http://", false),
            ("http://:4317", false),
            ("http://user:secret@host:4317", false),
            ("http://host:4318/v1/traces", false),
            ("http://host:4317?x", false),
            ("http://ho st", false),
            ("", false),
        ];
        for (text, want) in cases {
            assert_eq!(is_endpoint(text), want, "{text}");
        }
        for (text, want) in [
            ("0", Some(0.0)),
            ("0.25", Some(0.25)),
            ("1", Some(1.0)),
            ("1.01", None),
            ("-0.1", None),
            ("NaN", None),
            ("x", None),
        ] {
            assert_eq!(ratio(text).ok(), want, "{text}");
        }
    }
}
