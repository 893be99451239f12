//! Sends spans and metrics to a collector by OTLP over HTTP.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, Protocol, SpanExporter, WithExportConfig as _,
    WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::PeriodicReader;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

use super::Config;

/// Where spans and metrics are sent.
#[derive(Debug)]
pub(super) struct Sink {
    endpoint: String,
    headers: HashMap<String, String>,
    timeout: Duration,
    interval: Duration,
    ratio: f64,
    client: Client,
}

impl Sink {
    pub(super) fn new(endpoint: &str, config: &Config) -> Result<Self, reqwest::Error> {
        let authorization = config.otlp_authorization.as_ref();
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            headers: authorization
                .map(|value| ("authorization".into(), value.expose().to_owned()))
                .into_iter()
                .collect(),
            timeout: config.otlp_timeout,
            interval: config.metrics_interval,
            ratio: config.trace_ratio,
            client: Client {
                runtime: tokio::runtime::Handle::current(),
                http: reqwest::Client::builder()
                    .timeout(config.otlp_timeout)
                    .build()?,
            },
        })
    }

    pub(super) fn metrics(&self) -> Result<PeriodicReader<MetricExporter>, ExporterBuildError> {
        let exporter = MetricExporter::builder()
            .with_http()
            .with_http_client(self.client.clone())
            .with_headers(self.headers.clone())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(self.timeout)
            .with_endpoint(format!("{}/v1/metrics", self.endpoint))
            .build()?;
        Ok(PeriodicReader::builder(exporter)
            .with_interval(self.interval)
            .build())
    }

    pub(super) fn tracers(
        &self,
        resource: Resource,
    ) -> Result<SdkTracerProvider, ExporterBuildError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(self.client.clone())
            .with_headers(self.headers.clone())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(self.timeout)
            .with_endpoint(format!("{}/v1/traces", self.endpoint))
            .build()?;
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(self.ratio)));
        Ok(SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(sampler)
            .with_batch_exporter(exporter)
            .build())
    }
}

/// Sends requests on the process' own runtime: the exporters' threads have none.
#[derive(Clone, Debug)]
struct Client {
    runtime: tokio::runtime::Handle,
    http: reqwest::Client,
}

impl HttpClient for Client {
    fn send_bytes<'a, 'f>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move {
            let mut answer = http.execute(request.try_into()?).await?;
            let headers = std::mem::take(answer.headers_mut());
            let mut response = Response::builder().status(answer.status());
            if let Some(all) = response.headers_mut() {
                *all = headers;
            }
            Ok::<_, HttpError>(response.body(answer.bytes().await?)?)
        });
        Box::pin(async move { sent.await? })
    }
}
