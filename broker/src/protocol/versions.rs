//! Lists what the broker speaks: one line per API.
//!
//! The upper ends are where something begins that a single node does not have (topic ids in
//! `Fetch` 13, the group protocol of KIP-848 in `OffsetCommit` 9, …) or that no client needs.
use kafka_protocol::messages::ApiKey;

/// An API, its versions and the shape of its requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Supported {
    pub(crate) key: ApiKey,
    pub(crate) min: i16,
    pub(crate) max: i16,
    /// First version with compact lengths and tagged fields (KIP-482).
    pub(crate) flexible: i16,
    /// The request's fields, in the notation of [`super::shape`].
    pub(crate) shape: &'static str,
}

const fn api(key: ApiKey, min: i16, max: i16, flexible: i16, shape: &'static str) -> Supported {
    Supported {
        key,
        min,
        max,
        flexible,
        shape,
    }
}

/// Everything advertised by `ApiVersions`.
pub(crate) const SUPPORTED: &[Supported] = &[
    api(ApiKey::Produce, 3, 9, 9, "s 2 4 [ s [ 4 b ] ]"),
    api(
        ApiKey::Fetch,
        4,
        11,
        12,
        "4 4 4 4 1 4@7 4@7 [ s [ 4 4@9 8 8@5 4 ] ] [ s (4) ]@7 s@11",
    ),
    api(ApiKey::ListOffsets, 1, 7, 6, "4 1@2 [ s [ 4 4@4 8 ] ]"),
    api(ApiKey::Metadata, 0, 12, 9, "[ u@10 s ] 1@4 1@8-10 1@8"),
    api(
        ApiKey::OffsetCommit,
        2,
        7,
        8,
        "s 4 s s@7 8@2-4 [ s [ 4 8 4@6 s ] ]",
    ),
    api(ApiKey::OffsetFetch, 1, 7, 6, "s [ s (4) ] 1@7"),
    api(ApiKey::FindCoordinator, 0, 4, 3, "s@0-3 1@1 (s)@4"),
    api(ApiKey::JoinGroup, 0, 5, 6, "s 4 4@1 s s@5 s [ s b ]"),
    api(ApiKey::Heartbeat, 0, 3, 4, "s 4 s s@3"),
    api(ApiKey::LeaveGroup, 0, 4, 4, "s s@0-2 [ s s ]@3"),
    api(ApiKey::SyncGroup, 0, 3, 4, "s 4 s s@3 [ s b ]"),
    api(ApiKey::DescribeGroups, 0, 4, 5, "(s) 1@3"),
    api(ApiKey::ListGroups, 0, 4, 3, "(s)@4"),
    api(ApiKey::ApiVersions, 0, 3, 3, "s@3 s@3"),
    api(
        ApiKey::CreateTopics,
        2,
        7,
        5,
        "[ s 4 2 [ 4 (4) ] [ s s ] ] 4 1",
    ),
    api(ApiKey::DeleteTopics, 1, 5, 4, "(s) 4"),
    api(ApiKey::DeleteRecords, 0, 2, 2, "[ s [ 4 8 ] ] 4"),
    api(ApiKey::InitProducerId, 0, 4, 2, "s 4 8@3 2@3"),
    api(ApiKey::AddPartitionsToTxn, 0, 3, 3, "s 8 2 [ s (4) ]"),
    api(ApiKey::AddOffsetsToTxn, 0, 3, 3, "s 8 2 s"),
    api(ApiKey::EndTxn, 0, 3, 3, "s 8 2 1"),
    api(
        ApiKey::TxnOffsetCommit,
        0,
        3,
        3,
        "s s 8 2 4@3 s@3 s@3 [ s [ 4 8 4@2 s ] ]",
    ),
    api(ApiKey::DescribeConfigs, 1, 4, 4, "[ 1 s (s) ] 1 1@3"),
    api(ApiKey::AlterConfigs, 0, 2, 2, "[ 1 s [ s s ] ] 1"),
    api(ApiKey::CreatePartitions, 0, 3, 2, "[ s 4 [ (4) ] ] 4 1"),
    api(ApiKey::DeleteGroups, 0, 2, 2, "(s)"),
    api(
        ApiKey::IncrementalAlterConfigs,
        0,
        1,
        1,
        "[ 1 s [ s 1 s ] ] 1",
    ),
];
