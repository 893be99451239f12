//! Counts fetches, and tells how old the keys are.

use std::sync::Weak;

use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};

use super::source::Source;

/// Every instrument of an issuer's keys.
#[derive(Debug)]
pub(super) struct Instruments {
    fetches: Counter<u64>,
}

impl Instruments {
    /// The instruments, of the process' meter.
    pub(super) fn new() -> Self {
        let meter = global::meter("sumu.ingest");
        Self {
            fetches: meter
                .u64_counter("sumu.ingest.auth.fetches")
                .with_description("Fetches of an issuer's keys, by outcome")
                .build(),
        }
    }

    /// `outcome` is `fetched`, or why not.
    pub(super) fn fetch(&self, issuer: &str, outcome: &'static str) {
        let issuer = KeyValue::new("issuer", issuer.to_owned());
        let outcome = KeyValue::new("outcome", outcome);
        self.fetches.add(1, &[issuer, outcome]);
    }
}

/// Has the age of these sources' keys told whenever metrics are read.
pub(super) fn tell_ages(sources: Vec<Weak<Source>>) {
    // The meter keeps the callback.
    let _gauge = global::meter("sumu.ingest")
        .f64_observable_gauge("sumu.ingest.auth.keys.age")
        .with_unit("s")
        .with_description("Time since an issuer's keys were last fetched")
        .with_callback(move |observer| {
            for source in sources.iter().filter_map(Weak::upgrade) {
                if let Some(age) = source.age() {
                    let issuer = KeyValue::new("issuer", source.name().to_owned());
                    observer.observe(age.as_secs_f64(), &[issuer]);
                }
            }
        })
        .build();
}
