//! Notifications for one user each, from Kafka to the socket.

use crate::RunArgs;
use crate::load::Load;
use crate::measure::{Measured, PAYLOAD, Plan, spread};
use crate::report::Report;
use crate::scenarios::Size;
use crate::target::Setup;

/// Devices of users, in turn: 1.8 on average.
const DEVICES: [usize; 5] = [1, 1, 2, 2, 3];
const STEADY: [(&str, u64); 2] = [("targeted, 2,000/s", 2_000), ("targeted, 5,000/s", 5_000)];
/// Parts of the storm's rate.
const PARTS: [(&str, f64); 3] = [
    ("targeted, 10 % of the maximum", 0.1),
    ("targeted, 50 % of the maximum", 0.5),
    ("targeted, 80 % of the maximum", 0.8),
];

pub(super) async fn run(args: &RunArgs, size: &Size, report: &mut Report) -> anyhow::Result<()> {
    for setup in [Setup::Floor, args.dev()] {
        let mut measured = Measured::start(args, setup, &[], report).await?;
        let mut load = measured.open(size.sockets).await?;
        let most = storm(&mut measured, &load, size, "targeted, storm").await?;
        for (scenario, rate) in STEADY {
            steady(&mut measured, &load, size, scenario, rate as f64).await?;
        }
        for (scenario, part) in PARTS {
            steady(&mut measured, &load, size, scenario, most * part).await?;
        }
        if setup != Setup::Floor {
            devices(&mut measured, &mut load, size).await?;
        }
        drop(load);
        measured.finish().await;
    }
    Ok(())
}

/// Answers deliveries per second.
pub(super) async fn storm(
    measured: &mut Measured<'_>,
    load: &Load,
    size: &Size,
    scenario: &str,
) -> anyhow::Result<f64> {
    let plan = Plan {
        scenario,
        payloads: size.targeted,
        deliveries: size.targeted,
        bytes: PAYLOAD,
    };
    measured.storm(load, plan, spread(size.sockets)).await
}

pub(super) async fn steady(
    measured: &mut Measured<'_>,
    load: &Load,
    size: &Size,
    scenario: &str,
    per_second: f64,
) -> anyhow::Result<()> {
    let payloads = payloads(size, per_second);
    let plan = Plan {
        scenario,
        payloads,
        deliveries: payloads,
        bytes: PAYLOAD,
    };
    let whom = spread(size.sockets);
    measured.steady(load, plan, per_second, whom).await?;
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, and far below 2^53"
)]
pub(super) fn payloads(size: &Size, per_second: f64) -> u64 {
    (per_second * size.steady.as_secs_f64()) as u64
}

/// The same users with one to three devices each.
async fn devices(measured: &mut Measured<'_>, load: &mut Load, size: &Size) -> anyhow::Result<()> {
    // As many users as have descriptors for their devices.
    let users = size.sockets.min(size.most * 5 / 9);
    let of = |user: usize| DEVICES.get(user % DEVICES.len()).copied().unwrap_or(1);
    let more = (0..users).flat_map(|user| (1..of(user)).map(move |_| user));
    let paths = more.map(crate::target::path_of).collect();
    let sockets = measured.target.sockets.clone();
    load.add(&sockets, paths, true).await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;

    let deliveries = |payloads: u64| {
        let users_of = (0..payloads).map(|i| match spread(users)(i) {
            crate::publish::Whom::One(user) => of(user) as u64,
            crate::publish::Whom::All => 0,
        });
        users_of.sum()
    };
    let plan = |scenario, payloads| Plan {
        scenario,
        payloads,
        deliveries: deliveries(payloads),
        bytes: PAYLOAD,
    };
    let storm = plan("targeted, 1–3 devices, storm", size.targeted / 2);
    measured.storm(load, storm, spread(users)).await?;
    let steady = plan("targeted, 1–3 devices, 5,000/s", payloads(size, 5_000.0));
    measured
        .steady(load, steady, 5_000.0, spread(users))
        .await?;
    Ok(())
}
