//! What the log must do, whoever serves it: one list of cases, run against the embedded broker and
//! against Apache Kafka.
//!
//! The embedded broker runs in the test's process. Apache Kafka is the one at `SUMU_TEST_KAFKA`
//! (`host:port`); without it, the cases below `apache_kafka_if_given` do nothing and say so.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a case that fails panics"
)]

mod append;
mod edges;
mod fenced;
mod groups;
mod harness;
mod layout;
mod leader;
mod lookups;
mod sasl_ssl;
mod scans;
mod transactions;

macro_rules! cases {
    ($($room:ident::$case:ident,)+) => {
        mod embedded_broker {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let server = crate::harness::Server::embedded().await;
                    crate::$room::$case(&server).await;
                }
            )+
        }

        mod apache_kafka_if_given {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    if let Some(server) = crate::harness::Server::apache_kafka() {
                        crate::$room::$case(&server).await;
                    }
                }
            )+
        }
    };
}

cases! {
    append::keeps_the_order_of_calls,
    append::carries_keys_values_and_headers,
    append::stamps_the_time_of_the_append,
    append::refuses_what_is_too_large_for_good,
    append::sends_what_is_queued_when_dropped,
    edges::are_followed_and_read_to_their_end,
    groups::moves_come_as_values,
    groups::nothing_is_read_before_start,
    groups::start_takes_every_kind_of_place,
    groups::a_place_outside_the_log_is_refused,
    groups::metadata_is_kept_with_offsets,
    groups::a_pause_loses_and_repeats_nothing,
    groups::batches_keep_their_limits,
    groups::a_member_that_stops_polling_is_replaced,
    groups::a_member_that_ends_as_it_joins_leaves,
    layout::is_created_once_and_checked,
    layout::other_partition_counts_are_refused,
    layout::other_required_settings_are_refused,
    lookups::find_offsets_by_time,
    lookups::ends_lie_past_control_records,
    scans::scans_come_in_time_order,
    scans::scans_without_an_end_follow,
    scans::a_scan_says_what_the_log_does_not_hold,
    scans::a_scan_says_that_the_log_ends_early,
    scans::clocks_that_jump_change_no_order,
    transactions::commit_outputs_with_offsets,
    transactions::show_nothing_of_what_was_aborted,
    transactions::refuse_partitions_of_others,
    transactions::fence_an_older_producer,
    transactions::fence_an_older_generation,
    transactions::count_each_output_once_across_a_hand_over,
}

/// What a file system or a disk does to the embedded broker's files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_reads_around_damage_and_names_it() {
    let server = harness::Server::embedded().await;
    scans::damage_is_named_and_read_around(&server).await;
}
