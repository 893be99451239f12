//! Writes logs, and carries spans and metrics to where they are read.
//!
//! Logs go to standard error: short lines on a terminal, JSON where machines read. Spans and
//! metrics go to an OpenTelemetry collector when one is configured; metrics are always there for
//! Prometheus to fetch. Instruments come from [`opentelemetry::global::meter`].

use std::io::IsTerminal as _;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, global};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::{Registry, TextEncoder};
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry as Subscriber};

use crate::Secret;

mod otlp;
pub mod trace;

/// What is logged, and where spans and metrics go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which log lines are written: a level, or `tracing`'s filter directives.
    pub log: String,
    /// The form of log lines.
    pub format: Format,
    /// Base URL of an OTLP collector over HTTP, such as `http://127.0.0.1:4318`; none: not sent.
    pub otlp_endpoint: Option<String>,
    /// The value of the header `authorization` sent to the collector.
    pub otlp_authorization: Option<Secret>,
    /// How long one export may take.
    #[serde(with = "compact::required")]
    pub otlp_timeout: Duration,
    /// How often metrics are sent to the collector.
    #[serde(with = "compact::required")]
    pub metrics_interval: Duration,
    /// The share of traces begun here that is sent: 0.0 to 1.0. A trace that a producer began
    /// keeps the producer's choice.
    pub trace_ratio: f64,
}

/// Calm: what libraries say on the way is left out, but for their errors.
const DEFAULT_LOG: &str = "info,librdkafka=error,actix_server=warn,opentelemetry=warn";

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One short line for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: DEFAULT_LOG.into(),
            format: Format::default(),
            otlp_endpoint: None,
            otlp_authorization: None,
            otlp_timeout: Duration::from_secs(10),
            metrics_interval: Duration::from_mins(1),
            trace_ratio: 1.0,
        }
    }
}

impl Config {
    /// All that is wrong with these settings.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Err(error) = EnvFilter::try_new(&self.log) {
            faults.push(format!("log is not a filter: {error}"));
        }
        if let Some(url) = &self.otlp_endpoint
            && !reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
        {
            faults.push("otlp_endpoint must be an http:// or https:// URL".into());
        }
        if !(0.0..=1.0).contains(&self.trace_ratio) {
            faults.push("trace_ratio must be 0.0 to 1.0".into());
        }
        for (name, span) in [
            ("otlp_timeout", self.otlp_timeout),
            ("metrics_interval", self.metrics_interval),
        ] {
            if span < Duration::from_millis(100) {
                faults.push(format!("{name} must be at least 100ms"));
            }
        }
        faults
    }
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter of log lines is wrong.
    #[error("the log filter is wrong")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The exporter of metrics or spans cannot be made.
    #[error("cannot export spans or metrics: {0}")]
    Export(String),
    /// Another subscriber of logs and spans is installed.
    #[error("telemetry was started before")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// The metrics of this process, as Prometheus reads them. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Registry);

impl Metrics {
    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.0.gather())
    }
}

/// Telemetry while the process lives.
#[derive(Debug)]
pub struct Guard {
    metrics: Metrics,
    meters: SdkMeterProvider,
    tracers: Option<SdkTracerProvider>,
}

/// Starts logs, spans and metrics for the whole process. Call it once, inside a multi-threaded tokio
/// runtime: exports run there.
///
/// # Errors
/// When the filter is wrong, an exporter cannot be made, or telemetry was started before.
pub fn init(
    config: &Config,
    service: &'static str,
    instance: &str,
) -> Result<Guard, TelemetryError> {
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attributes([
            KeyValue::new("service.namespace", "sumu"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance.to_owned()),
        ])
        .build();
    let export = |error: &dyn std::fmt::Display| TelemetryError::Export(error.to_string());
    let sink = config
        .otlp_endpoint
        .as_ref()
        .map(|endpoint| otlp::Sink::new(endpoint, config));
    let sink = sink.transpose().map_err(|e| export(&e))?;

    let metrics = Metrics::default();
    let mut meters = SdkMeterProvider::builder()
        .with_resource(resource.clone())
        .with_reader(
            opentelemetry_prometheus::exporter()
                .with_registry(metrics.0.clone())
                .build()
                .map_err(|e| export(&e))?,
        );
    if let Some(sink) = &sink {
        meters = meters.with_reader(sink.metrics().map_err(|e| export(&e))?);
    }
    let meters = meters.build();

    let tracers = sink.as_ref().map(|sink| sink.tracers(resource)).transpose();
    let tracers = tracers.map_err(|e| export(&e))?;
    // Without a collector the spans only carry on the trace that a producer began.
    let spans = match &tracers {
        Some(tracers) => tracing_opentelemetry::layer()
            .with_tracer(tracers.tracer("sumu"))
            .boxed(),
        None => tracing_opentelemetry::layer().boxed(),
    };
    Subscriber::default()
        .with(spans.with_filter(LevelFilter::INFO))
        .with(lines(config.format).with_filter(EnvFilter::try_new(&config.log)?))
        .try_init()?;
    global::set_meter_provider(meters.clone());
    Ok(Guard {
        metrics,
        meters,
        tracers,
    })
}

fn lines<S>(format: Format) -> Box<dyn tracing_subscriber::Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        Format::Json => lines.json().flatten_event(true).boxed(),
        Format::Auto if !terminal => lines.json().flatten_event(true).boxed(),
        Format::Auto | Format::Text => lines.compact().with_ansi(terminal).boxed(),
    }
}

impl Guard {
    /// The metrics of this process.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Sends what has not been sent yet, and stops. Blocks for `limit` at most per kind.
    pub fn shutdown(self, limit: Duration) {
        let spans = self
            .tracers
            .map(|tracers| tracers.shutdown_with_timeout(limit));
        let meters = self.meters.shutdown_with_timeout(limit);
        for result in spans.into_iter().chain([meters]) {
            match result {
                Ok(()) | Err(OTelSdkError::AlreadyShutdown) => {}
                Err(error) => tracing::warn!(%error, "the last spans or metrics were not sent"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_at_once() {
        assert!(Config::default().faults().is_empty());
        let wrong = Config {
            log: "sumu=loud".into(),
            otlp_endpoint: Some("collector:4317".into()),
            trace_ratio: 1.5,
            otlp_timeout: Duration::ZERO,
            ..Config::default()
        };
        assert_eq!(wrong.faults().len(), 4, "{:?}", wrong.faults());
    }
}
