//! Carries a trace from record to record by its `traceparent` (W3C Trace Context).

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId};
use opentelemetry::{Context, trace::TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The `traceparent` to send along with what the current span does. Without a collector that is the
/// one the span was given; none if it was given none.
#[must_use]
pub fn inject() -> Option<String> {
    of(&Span::current())
}

/// The `traceparent` to send along with what this span does.
#[must_use]
pub fn of(span: &Span) -> Option<String> {
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| {
        let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags());
        format!("00-{trace}-{id}-{:02x}", flags.to_u8())
    })
}

/// Makes a span that was not entered yet a child of the trace that `traceparent` names. One that
/// cannot be read changes nothing.
pub fn parent(span: &Span, traceparent: &str) {
    if let Some(remote) = read(traceparent) {
        // It fails if nobody collects spans, or the span is entered: then there is nothing to do.
        drop(span.set_parent(Context::new().with_remote_span_context(remote)));
    }
}

/// Notes on a span, such as that of a batch, that it also does work of the trace that
/// `traceparent` names. One that cannot be read changes nothing.
pub fn link(span: &Span, traceparent: &str) {
    if let Some(remote) = read(traceparent) {
        span.add_link(remote);
    }
}

/// Reads version 00, and what later versions have in common with it.
fn read(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let mut hex = |digits: usize| {
        let part = parts.next()?;
        let lower = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (part.len() == digits && lower).then_some(part)
    };
    let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let too_long = version == "00" && parts.next().is_some();
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    (version != "ff" && !too_long && context.is_valid()).then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_by_the_rules() {
        assert!(read(GIVEN).is_some());
        assert!(read(&GIVEN.replace("00-4", "01-4").replace("-01", "-01-more")).is_some());
        for wrong in [
            "",
            "00",
            &GIVEN.replace("00-4", "ff-4"),
            &GIVEN.to_uppercase(),
            &format!("{GIVEN}-more"),
            &GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GIVEN.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GIVEN.replace("-01", "-0"),
        ] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn without_a_collector_a_trace_is_passed_on_as_it_came() {
        use tracing_subscriber::layer::SubscriberExt as _;
        let spans = tracing_subscriber::registry().with(tracing_opentelemetry::layer());
        tracing::subscriber::with_default(spans, || {
            let alone = tracing::info_span!("alone");
            assert_eq!(of(&alone), None);

            let span = tracing::info_span!("send");
            parent(&span, GIVEN);
            span.in_scope(|| {
                assert_eq!(inject().as_deref(), Some(GIVEN));
                let child = tracing::info_span!("append");
                assert_eq!(of(&child).as_deref(), Some(GIVEN));
            });

            let span = tracing::info_span!("send");
            parent(&span, "nonsense");
            assert_eq!(of(&span), None);
        });
    }

    #[test]
    fn with_a_collector_spans_are_children_of_the_trace_that_came() {
        use opentelemetry::trace::TracerProvider as _;
        use tracing_subscriber::layer::SubscriberExt as _;
        let tracers = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(tracers.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = tracing::info_span!("send");
            parent(&span, GIVEN);
            let sent = of(&span).unwrap();
            assert_eq!(sent.split('-').nth(1), GIVEN.split('-').nth(1));
            assert_ne!(sent.split('-').nth(2), GIVEN.split('-').nth(2));
        });
    }
}
