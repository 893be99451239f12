//! The cases that both stores pass.

use std::slice::from_ref;
use std::time::Duration;

use schemas::presence::Status::{Offline, Online};
use schemas::{ConnectionRow, Millis, UserId};
use store::{Mutation, PresenceRow};

use crate::bench::{Bench, HOUR, PAGE, T, delete, presence, put, put_for, row};

macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        mod embedded {
            use crate::bench::Bench;
            $(#[tokio::test] async fn $case() { super::$case(&Bench::embedded()).await; })*
        }
        mod cql {
            use crate::bench::Bench;
            $(#[tokio::test] async fn $case() {
                if let Some(bench) = Bench::cql().await { super::$case(&bench).await; }
            })*
        }
    };
}

suite![
    is_ready_and_knows_nobody,
    gives_back_every_field,
    applies_a_record_twice,
    keeps_the_later_record,
    lets_no_older_value_show_through,
    deletes_one_connection,
    deletes_before_the_put_arrives,
    deletes_in_the_same_millisecond,
    opens_again_after_a_delete,
    forgets_when_the_ttl_ends,
    does_not_revive_what_expired,
    prolongs_what_is_applied_again,
    takes_a_ttl_shorter_than_a_second,
    keeps_the_last_transition,
    orders_transitions_of_one_millisecond,
    looks_thousands_of_users_up,
    reads_more_rows_than_a_page,
    takes_any_user_id,
];

async fn is_ready_and_knows_nobody(bench: &Bench) {
    bench.store.ready().await.unwrap();
    let nobody = [bench.user("nobody")];
    assert_eq!(bench.connections(&nobody).await, []);
    assert_eq!(bench.presence(&nobody).await, []);
    assert_eq!(bench.connections(&[]).await, []);
    assert_eq!(bench.presence(&[]).await, []);
    bench.apply(&[]).await;
}

async fn gives_back_every_field(bench: &Bench) {
    let user = bench.user("ann");
    let full = ConnectionRow {
        expires_at: Some(Millis(T + 999)),
        user_agent: Some("Mozilla/5.0 (ünïcode; “quoted”)".into()),
        claims: serde_json::from_str(r#"{"tenant":"a'b","roles":["x","y"],"n":1.50,"z":null}"#)
            .unwrap(),
        ..row(&user, 1, T)
    };
    let bare = ConnectionRow {
        source_ip: String::new(),
        ..row(&user, 2, T)
    };
    let at = Millis(T);
    let puts = [&full, &bare].map(|row| Mutation::Put {
        row: row.clone(),
        at,
        ttl: HOUR,
    });
    bench.apply(&puts).await;
    assert_eq!(bench.connections(&[user]).await, [full, bare]);
}

async fn applies_a_record_twice(bench: &Bench) {
    let [user, other] = [bench.user("ann"), bench.user("bob")];
    let records = [
        put(&user, 1, T),
        put(&user, 2, T),
        delete(&user, 2, T + 1),
        put(&other, 3, T),
    ];
    bench.apply(&records).await;
    let once = bench.connections(&[user.clone(), other.clone()]).await;
    bench.apply(&records).await;
    assert_eq!(once, [row(&user, 1, T), row(&other, 3, T)]);
    assert_eq!(bench.connections(&[user, other]).await, once);
}

async fn keeps_the_later_record(bench: &Bench) {
    let user = bench.user("ann");
    bench.apply(&[put(&user, 1, T + 1)]).await;
    bench.apply(&[put(&user, 1, T)]).await;
    assert_eq!(
        bench.connections(from_ref(&user)).await,
        [row(&user, 1, T + 1)]
    );
    bench.apply(&[put(&user, 1, T + 2)]).await;
    assert_eq!(
        bench.connections(from_ref(&user)).await,
        [row(&user, 1, T + 2)]
    );
}

async fn lets_no_older_value_show_through(bench: &Bench) {
    let user = bench.user("ann");
    let older = ConnectionRow {
        expires_at: Some(Millis(T)),
        user_agent: Some("older".into()),
        claims: Some(serde_json::Map::new()),
        ..row(&user, 1, T)
    };
    bench
        .apply(&[Mutation::Put {
            row: older,
            at: Millis(T),
            ttl: HOUR,
        }])
        .await;
    bench.apply(&[put(&user, 1, T + 1)]).await;
    assert_eq!(
        bench.connections(from_ref(&user)).await,
        [row(&user, 1, T + 1)]
    );
}

async fn deletes_one_connection(bench: &Bench) {
    let user = bench.user("ann");
    bench
        .apply(&[put(&user, 1, T), put(&user, 2, T), put(&user, 3, T)])
        .await;
    bench.apply(&[delete(&user, 2, T + 1)]).await;
    assert_eq!(
        bench.connections(from_ref(&user)).await,
        [row(&user, 1, T), row(&user, 3, T)]
    );
}

async fn deletes_before_the_put_arrives(bench: &Bench) {
    let user = bench.user("ann");
    bench.apply(&[delete(&user, 1, T + 1)]).await;
    bench.apply(&[put(&user, 1, T)]).await;
    assert_eq!(bench.connections(&[user]).await, []);
}

async fn deletes_in_the_same_millisecond(bench: &Bench) {
    let user = bench.user("ann");
    bench.apply(&[put(&user, 1, T)]).await;
    bench.apply(&[delete(&user, 1, T)]).await;
    bench.apply(&[delete(&user, 2, T)]).await;
    bench.apply(&[put(&user, 2, T)]).await;
    assert_eq!(bench.connections(&[user]).await, []);
}

async fn opens_again_after_a_delete(bench: &Bench) {
    let user = bench.user("ann");
    bench.apply(&[put(&user, 1, T + 1)]).await;
    bench.apply(&[delete(&user, 1, T)]).await;
    assert_eq!(
        bench.connections(from_ref(&user)).await,
        [row(&user, 1, T + 1)]
    );
}

async fn forgets_when_the_ttl_ends(bench: &Bench) {
    let user = bench.user("ann");
    bench
        .apply(&[
            put_for(&user, 1, T, Duration::from_secs(1)),
            put(&user, 2, T),
        ])
        .await;
    until_gone(bench, &user, 1).await;
    assert_eq!(bench.connections(from_ref(&user)).await, [row(&user, 2, T)]);
}

async fn does_not_revive_what_expired(bench: &Bench) {
    let user = bench.user("ann");
    bench
        .apply(&[put_for(&user, 1, T, Duration::from_secs(1))])
        .await;
    until_gone(bench, &user, 1).await;
    bench.apply(&[put(&user, 1, T - 1)]).await;
    assert_eq!(bench.connections(&[user]).await, []);
}

async fn prolongs_what_is_applied_again(bench: &Bench) {
    let [user, witness] = [bench.user("ann"), bench.user("bob")];
    let short = Duration::from_secs(2);
    bench
        .apply(&[put_for(&user, 1, T, short), put_for(&witness, 1, T, short)])
        .await;
    bench.apply(&[put_for(&user, 1, T, HOUR)]).await;
    until_gone(bench, &witness, 1).await;
    assert_eq!(bench.connections(from_ref(&user)).await, [row(&user, 1, T)]);
}

async fn takes_a_ttl_shorter_than_a_second(bench: &Bench) {
    let user = bench.user("ann");
    bench.apply(&[put_for(&user, 1, T, Duration::ZERO)]).await;
    until_gone(bench, &user, 1).await;
}

async fn keeps_the_last_transition(bench: &Bench) {
    let [user, other] = [bench.user("ann"), bench.user("bob")];
    let came = presence(&user, Online, T, 10);
    let left = presence(&user, Offline, T + 1, 11);
    let back = presence(&user, Online, T + 2, 12);
    let asked = [user.clone(), other, user];
    bench.apply(&[Mutation::Presence(left.clone())]).await;
    bench.apply(&[Mutation::Presence(came)]).await;
    assert_eq!(bench.presence(&asked).await, from_ref(&left));
    bench.apply(&[Mutation::Presence(back.clone())]).await;
    bench.apply(&[Mutation::Presence(left)]).await;
    assert_eq!(bench.presence(&asked).await, [back]);
    assert_eq!(bench.connections(&asked).await, []);
}

async fn orders_transitions_of_one_millisecond(bench: &Bench) {
    let names = [
        "by position",
        "by position, late",
        "by status",
        "by status, late",
    ];
    let users = names.map(|name| bench.user(name));
    let last = [
        presence(&users[0], Offline, T, 1_011),
        presence(&users[1], Offline, T, 1_011),
        presence(&users[2], Online, T, 1_010),
        presence(&users[3], Online, T, 1_010),
    ];
    let first = [
        presence(&users[0], Online, T, 1_010),
        presence(&users[1], Online, T, 1_010),
        presence(&users[2], Offline, T, 1_010),
        presence(&users[3], Offline, T, 1_010),
    ];
    for n in [0, 2] {
        bench.apply(&[Mutation::Presence(first[n].clone())]).await;
        bench.apply(&[Mutation::Presence(last[n].clone())]).await;
        bench
            .apply(&[Mutation::Presence(last[n + 1].clone())])
            .await;
        bench
            .apply(&[Mutation::Presence(first[n + 1].clone())])
            .await;
    }
    assert_eq!(bench.presence(&users).await, last);
}

async fn looks_thousands_of_users_up(bench: &Bench) {
    let users: Vec<UserId> = (0..3_000).map(|n| bench.user(&format!("{n:04}"))).collect();
    let devices = |n: usize| 0..u64::try_from(n % 4).unwrap();
    let of = |n: usize| devices(n).map(move |device| (n, device));
    let puts = (0..users.len())
        .flat_map(of)
        .map(|(n, device)| put(&users[n], device, T));
    let came = users
        .iter()
        .map(|user| Mutation::Presence(presence(user, Online, T, 1)));
    bench.apply(&puts.chain(came).collect::<Vec<_>>()).await;

    let mut asked = users.clone();
    asked.extend((0..50).map(|n| bench.user(&format!("nobody {n}"))));
    asked.extend_from_slice(&users[..500]);
    let rows: Vec<_> = (0..users.len())
        .flat_map(of)
        .map(|(n, device)| row(&users[n], device, T))
        .collect();
    assert_eq!(bench.connections(&asked).await, rows);
    let came: Vec<PresenceRow> = users
        .iter()
        .map(|user| presence(user, Online, T, 1))
        .collect();
    assert_eq!(bench.presence(&asked).await, came);
}

async fn reads_more_rows_than_a_page(bench: &Bench) {
    let user = bench.user("ann");
    let count = u64::from(PAGE) * 5 / 2;
    bench
        .apply(&(0..count).map(|n| put(&user, n, T)).collect::<Vec<_>>())
        .await;
    let rows: Vec<_> = (0..count).map(|n| row(&user, n, T)).collect();
    assert_eq!(bench.connections(&[user]).await, rows);
}

async fn takes_any_user_id(bench: &Bench) {
    let long = "长".repeat(60);
    let names = [
        "ünï'cødé",
        "\"; DROP TABLE x",
        "a b",
        "👩‍👩‍👧",
        "ann@example.com",
        "%2F..",
        &long,
    ];
    let mut users = names.map(|name| bench.user(name));
    users.sort();
    for user in &users {
        bench
            .apply(&[
                put(user, 1, T),
                Mutation::Presence(presence(user, Online, T, 1)),
            ])
            .await;
    }
    assert_eq!(
        bench.connections(&users).await,
        users.each_ref().map(|user| row(user, 1, T))
    );
    let rows = users.each_ref().map(|user| presence(user, Online, T, 1));
    assert_eq!(bench.presence(&users).await, rows);
}

/// Lets time pass until a connection is gone. It must have been there.
async fn until_gone(bench: &Bench, user: &UserId, n: u64) {
    let id = crate::bench::connection(n);
    let there = async || {
        let rows = bench.connections(from_ref(user)).await;
        rows.iter().any(|row| row.connection_id == id)
    };
    assert!(there().await, "it was never there");
    for _ in 0..100 {
        bench.pass(Duration::from_millis(200)).await;
        if !there().await {
            return;
        }
    }
    panic!("still there after 20 s");
}
