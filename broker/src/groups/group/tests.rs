use super::*;

const LIMITS: Limits = Limits {
    max_members: 3,
    initial_delay: Duration::from_millis(100),
};

/// A group and a clock, for tests that read like a story.
struct Story {
    group: Group,
    now: Duration,
    replies: Replies,
    last_ticket: Ticket,
}

impl Story {
    fn new() -> Self {
        let (group, replies) = (Group::default(), Vec::new());
        Self {
            group,
            now: Duration::from_secs(100),
            replies,
            last_ticket: 0,
        }
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
        self.group.tick(self.now, &mut self.replies);
    }

    fn join_as(&mut self, id: &str, instance: Option<&str>, protocols: &[&str]) -> Ticket {
        self.last_ticket += 1;
        let protocols = protocols
            .iter()
            .map(|name| ((*name).to_owned(), Bytes::from(id.to_owned())));
        let known = self.group.members.contains_key(id);
        let join = Join {
            member_id: if known { id.to_owned() } else { String::new() },
            fresh_id: id.to_owned(),
            confirm_id: false,
            instance: instance.map(str::to_owned),
            client_id: "test".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
            session: Duration::from_secs(6),
            rebalance: Duration::from_secs(10),
            protocol_type: "consumer".to_owned(),
            protocols: protocols.collect(),
            ticket: self.last_ticket,
        };
        self.group.join(join, LIMITS, self.now, &mut self.replies);
        self.last_ticket
    }

    fn join(&mut self, id: &str) -> Ticket {
        self.join_as(id, None, &["range"])
    }

    fn sync(&mut self, id: &str, assignments: &[(&str, &'static str)]) -> Ticket {
        self.last_ticket += 1;
        let assignments = assignments
            .iter()
            .map(|(id, what)| ((*id).to_owned(), Bytes::from_static(what.as_bytes())))
            .collect();
        let caller = caller(id, self.group.generation);
        let (group, replies) = (&mut self.group, &mut self.replies);
        group.sync(&caller, assignments, self.last_ticket, self.now, replies);
        self.last_ticket
    }

    fn beat(&mut self, id: &str) -> Result<(), ResponseError> {
        let caller = caller(id, self.group.generation);
        self.group.heartbeat(&caller, self.now)
    }

    fn reply(&mut self, ticket: Ticket) -> Option<Reply> {
        let at = self.replies.iter().position(|(to, _)| *to == ticket)?;
        Some(self.replies.remove(at).1)
    }

    fn joined(&mut self, ticket: Ticket) -> Option<Joined> {
        match self.reply(ticket)? {
            Reply::Joined(joined) => Some(joined.unwrap()),
            Reply::Synced(_) => panic!("a join was answered like a sync"),
        }
    }

    fn assignment(&mut self, ticket: Ticket) -> Option<Result<Bytes, ResponseError>> {
        match self.reply(ticket)? {
            Reply::Synced(synced) => Some(synced),
            Reply::Joined(_) => panic!("a sync was answered like a join"),
        }
    }

    /// Two members in their first generation, assigned and stable.
    fn pair() -> Self {
        let mut story = Self::new();
        let (a, b) = (story.join("a"), story.join("b"));
        story.wait(100);
        assert_eq!(story.joined(a).unwrap().members.len(), 2);
        assert_eq!(story.joined(b).unwrap().members.len(), 0);
        let (b, a) = (
            story.sync("b", &[]),
            story.sync("a", &[("a", "1"), ("b", "2")]),
        );
        assert_eq!(story.assignment(a), Some(Ok("1".into())));
        assert_eq!(story.assignment(b), Some(Ok("2".into())));
        story
    }
}

fn caller(member_id: &str, generation: i32) -> Caller<'_> {
    Caller {
        member_id,
        generation,
        instance: None,
    }
}

#[test]
fn the_first_generation_waits_for_more_members() {
    let mut story = Story::new();
    let a = story.join("a");
    story.wait(50);
    let b = story.join("b");
    assert_eq!(story.joined(a), None);
    story.wait(50);
    let (a, b) = (story.joined(a).unwrap(), story.joined(b).unwrap());
    assert_eq!(
        (
            a.generation,
            b.generation,
            a.leader.as_str(),
            b.leader.as_str()
        ),
        (1, 1, "a", "a")
    );
}

#[test]
fn a_newcomer_brings_the_others_back() {
    let mut story = Story::pair();
    let c = story.join("c");
    assert_eq!(story.beat("a"), Err(ResponseError::RebalanceInProgress));
    let (a, b) = (story.join("a"), story.join("b"));
    for ticket in [a, b, c] {
        assert_eq!(story.joined(ticket).unwrap().generation, 2);
    }
    // Whoever still has the old generation is fenced.
    let old = caller("a", 1);
    assert_eq!(
        story.group.may_commit(&old, story.now),
        Err(ResponseError::IllegalGeneration)
    );
}

#[test]
fn a_member_that_falls_silent_is_evicted() {
    let mut story = Story::pair();
    for _ in 0..4 {
        story.wait(2000);
        let _rebalancing = story.beat("b");
    }
    assert!(!story.group.members.contains_key("a"));
    let b = story.join("b");
    let joined = story.joined(b).unwrap();
    assert_eq!((joined.generation, joined.members.len()), (2, 1));
    let dead = caller("a", 1);
    assert_eq!(
        story.group.may_commit(&dead, story.now),
        Err(ResponseError::UnknownMemberId)
    );
}

#[test]
fn a_member_that_does_not_rejoin_in_time_is_left_behind() {
    let mut story = Story::pair();
    let c = story.join("c");
    let b = story.join("b");
    for _ in 0..5 {
        story.wait(2000);
        // It lives, but does not come back.
        let _rebalancing = story.beat("a");
    }
    assert_eq!(story.joined(c).unwrap().generation, 2);
    assert_eq!(story.joined(b).unwrap().generation, 2);
    assert_eq!(story.beat("a"), Err(ResponseError::UnknownMemberId));
}

#[test]
fn a_leader_that_lives_but_assigns_nothing_is_left_behind() {
    let mut story = Story::new();
    story.join("a");
    story.join("b");
    story.wait(100);
    let waiting = story.sync("b", &[]);
    for _ in 0..5 {
        assert_eq!(story.assignment(waiting), None);
        assert_eq!(story.beat("a"), Ok(()));
        story.wait(2000);
    }
    let again = Some(Err(ResponseError::RebalanceInProgress));
    assert_eq!(story.assignment(waiting), again);
    assert_eq!(story.beat("a"), Err(ResponseError::UnknownMemberId));
    let b = story.join("b");
    assert_eq!(story.joined(b).unwrap().members.len(), 1);
}

#[test]
fn a_follower_that_joins_again_unchanged_disturbs_nobody() {
    let mut story = Story::pair();
    let b = story.join("b");
    assert_eq!(story.joined(b).unwrap().generation, 1);
    assert_eq!(story.beat("a"), Ok(()));
    // The leader asks for a rebalance by joining again.
    story.join("a");
    assert_eq!(story.beat("b"), Err(ResponseError::RebalanceInProgress));
}

#[test]
fn a_sync_is_sent_back_when_a_rebalance_begins() {
    let mut story = Story::new();
    story.join("a");
    story.join("b");
    story.wait(100);
    let waiting = story.sync("b", &[]);
    story.join("c");
    assert_eq!(
        story.assignment(waiting),
        Some(Err(ResponseError::RebalanceInProgress))
    );
}

#[test]
fn the_last_one_to_leave_empties_the_group() {
    let mut story = Story::pair();
    for id in ["a", "b"] {
        let (now, replies) = (story.now, &mut story.replies);
        assert_eq!(story.group.leave(id, None, now, replies), Ok(()));
    }
    assert!(story.group.is_idle());
    assert_eq!(story.group.may_commit(&caller("", -1), story.now), Ok(()));
}

#[test]
fn a_consumer_without_membership_may_not_commit_over_members() {
    let mut story = Story::pair();
    let outsider = caller("", -1);
    let refused = story.group.may_commit(&outsider, story.now);
    assert_eq!(refused, Err(ResponseError::UnknownMemberId));
}

#[test]
fn strangers_and_misfits_are_refused() {
    let mut story = Story::pair();
    let misfit = story.join_as("c", None, &["sticky"]);
    let refused = Reply::Joined(Err(ResponseError::InconsistentGroupProtocol));
    assert_eq!(story.reply(misfit), Some(refused));
    story.join("c");
    let fourth = story.join("d");
    let refused = Reply::Joined(Err(ResponseError::GroupMaxSizeReached));
    assert_eq!(story.reply(fourth), Some(refused));
}

#[test]
fn the_assignor_is_one_that_all_know() {
    let mut story = Story::new();
    let a = story.join_as("a", None, &["sticky", "range"]);
    story.join_as("b", None, &["range"]);
    story.wait(100);
    assert_eq!(story.joined(a).unwrap().protocol, "range");
}

#[test]
fn a_static_member_comes_back_under_a_new_id_and_fences_its_old_self() {
    let mut story = Story::new();
    story.join_as("old", Some("i"), &["range"]);
    story.wait(100);
    story.sync("old", &[("old", "1")]);
    let new = story.join_as("new", Some("i"), &["range"]);
    assert_eq!(story.joined(new).unwrap().member_id, "new");
    let old = Caller {
        instance: Some("i"),
        ..caller("old", 1)
    };
    let refused = story.group.heartbeat(&old, story.now);
    assert_eq!(refused, Err(ResponseError::FencedInstanceId));
}

#[test]
fn an_id_that_was_given_out_and_never_used_is_forgotten() {
    let mut story = Story::new();
    let join = Join {
        member_id: String::new(),
        fresh_id: "a".to_owned(),
        confirm_id: true,
        instance: None,
        client_id: String::new(),
        client_host: String::new(),
        session: Duration::from_secs(6),
        rebalance: Duration::from_secs(6),
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::new())],
        ticket: 1,
    };
    story
        .group
        .join(join, LIMITS, story.now, &mut story.replies);
    let promised = story.joined(1).unwrap();
    assert_eq!(
        (promised.generation, promised.member_id.as_str()),
        (-1, "a")
    );
    assert!(!story.group.is_idle());
    story.wait(6001);
    assert!(story.group.is_idle());
}
