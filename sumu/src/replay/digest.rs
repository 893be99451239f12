//! Folds the log and prints a digest of what it has come to: `sumu replay --digest`.

use std::sync::Arc;

use audit::digest::Folding;
use audit::{Ask, Plan, Selection};
use eventlog::{Log, Start};
use presence::processor::Rules;
use schemas::{ConnectionEvent, Millis};

use crate::settings::Settings;
use crate::{console, scanning};

/// What of a record goes into the fold.
enum Item {
    Connection(i32, i64, Millis, Option<Box<ConnectionEvent>>),
    Presence(Vec<u8>, Option<Vec<u8>>),
}

/// Prints the digest alone: up to the ends that the log has now.
pub(super) async fn print(settings: Settings) -> anyhow::Result<()> {
    let log = Log::new(settings.log)?;
    let connections = Arc::clone(&log.topics().connections);
    let ask = Ask {
        topics: vec![Arc::clone(&connections), Arc::clone(&log.topics().presence)],
        partitions: vec![],
        from: Start::Beginning,
        to: Some(Start::End),
        selection: Selection::default(),
        resume: None,
    };
    let plan = Plan::make(&log, &ask).await?;
    for removed in &plan.removed {
        console::note(format_args!(
            "{}: retention has removed what was before offset {}: a digest made earlier differs",
            removed.partition, removed.beginning
        ));
    }
    let rules = Rules {
        connection_ttl: settings.timings.connection_ttl,
        grace: settings.timings.presence_grace,
        online: settings.presence.online,
    };
    let folding = Folding::new(Arc::clone(&connections), rules);
    let folding = scanning::fold(
        &log,
        plan.ranges,
        folding,
        move |record| {
            if *record.topic != *connections {
                let value = record.value.map(<[u8]>::to_vec);
                return Some(Item::Presence(record.key?.to_vec(), value));
            }
            let event = scanning::folded(record).map(Box::new);
            let (offset, time) = (record.offset, record.append_time);
            Some(Item::Connection(record.partition, offset, time, event))
        },
        |folding: &mut Folding, item| match item {
            Item::Connection(partition, offset, time, event) => {
                folding.connection(partition, offset, time, event.as_deref());
            }
            Item::Presence(key, value) => folding.presence(&key, value.as_deref()),
        },
    );
    console::line(folding.await?.finish()?)?;
    Ok(scanning::undamaged(&log)?)
}
