//! Holds the cluster to the guarantees, after each step: G1, G3, G4, G5, G7 of docs/guarantees.md.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytestring::ByteString;
use presence::owned::Owned;
use presence::processor::{Outputs, Partition};
use presence::records;
use schemas::deliveries::{EdgeLife, Unanswered};
use schemas::presence::Status;
use schemas::{ConnectionEvent, PresenceEvent, UserId};

use crate::broker::{self, CONNECTIONS, NOTIFICATIONS};
use crate::client::{Device, State};
use crate::presence::rules;
use crate::pusher::Audience;
use crate::shadow::{Lives, Shadow, Told};
use crate::times::{APPEND_TIMEOUT, GHOST};
use crate::world::{Node, TOPIC, World};

/// What is known of the truth, and what went wrong.
pub(crate) struct Checks {
    partitions: BTreeMap<UserId, i32>,
    pub(crate) shadows: Vec<Shadow>,
    pub(crate) lives: Lives,
    /// The production fold of each whole partition, in one go, and what it gave out.
    whole: Vec<(Partition, Outputs)>,
    /// Takeovers that have not been compared with it.
    fresh: BTreeMap<i32, bool>,
    /// How many events of each partition of `presence` were looked at.
    told: Vec<usize>,
    pub(crate) online: BTreeMap<UserId, bool>,
    /// Since when a user holds no socket.
    gone: Vec<Option<i64>>,
    /// When each partition last had no owner that works.
    unowned: Vec<i64>,
    disturbed: i64,
    /// What edges said of each notification, and how many records were looked at for that.
    receipts: BTreeMap<(i32, i64), BTreeMap<EdgeLife, Option<u32>>>,
    receipts_read: usize,
    pub(crate) failures: Vec<String>,
}

impl Checks {
    pub(crate) fn new(users: &[UserId]) -> Self {
        let partition = |user: &UserId| {
            schemas::partition::partition_for(user.as_str().as_bytes(), CONNECTIONS)
        };
        Self {
            partitions: users
                .iter()
                .map(|user| (user.clone(), partition(user)))
                .collect(),
            shadows: (0..CONNECTIONS).map(|_| Shadow::default()).collect(),
            lives: Lives::default(),
            whole: (0..CONNECTIONS)
                .map(|p| {
                    (
                        Partition::new(TOPIC.into(), p, rules(), None),
                        Outputs::default(),
                    )
                })
                .collect(),
            fresh: BTreeMap::new(),
            receipts: BTreeMap::new(),
            receipts_read: 0,
            told: vec![0; CONNECTIONS as usize],
            online: BTreeMap::new(),
            gone: vec![Some(0); users.len()],
            unowned: vec![0; CONNECTIONS as usize],
            disturbed: 0,
            failures: Vec::new(),
        }
    }

    pub(crate) fn partition_of(&self, user: &UserId) -> i32 {
        self.partitions[user]
    }

    /// Something was hindered for which no bound is promised.
    pub(crate) const fn disturbed(&mut self, now: i64) {
        if self.disturbed < now {
            self.disturbed = now;
        }
    }

    /// The user has a socket, be it for a moment.
    pub(crate) fn held(&mut self, user: usize) {
        self.gone[user] = None;
    }

    pub(crate) fn taken(&mut self, partition: i32, now: i64) {
        self.fresh.insert(partition, true);
        self.unowned[index(partition)] = now;
    }

    fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// G5: a fold that was begun at a restart point has come to the state of a fold of the whole log.
    pub(crate) fn folded(
        &mut self,
        partition: i32,
        owned: &Owned,
        log: &broker::Partition<Option<ConnectionEvent>>,
    ) {
        if !owned.is_caught_up() || self.fresh.get(&partition) != Some(&true) {
            return;
        }
        let next = owned.partition().next();
        if self.whole[index(partition)].0.next() > next {
            return;
        }
        self.fold_whole(partition, log, next);
        self.fresh.insert(partition, false);
        let (whole, here) = (
            self.whole[index(partition)].0.snapshot(),
            owned.partition().snapshot(),
        );
        if whole != here {
            self.fail(format!(
                "G5: partition {partition} taken over is\n{here:?}, not\n{whole:?}"
            ));
        }
    }

    fn fold_whole(
        &mut self,
        partition: i32,
        log: &broker::Partition<Option<ConnectionEvent>>,
        end: i64,
    ) {
        let (whole, outputs) = &mut self.whole[index(partition)];
        for record in log
            .from(whole.next())
            .iter()
            .take_while(|record| record.offset < end)
        {
            whole.apply(record.offset, record.at, record.value.as_ref(), outputs);
        }
    }

    /// G4: once per live connection, in partition order.
    pub(crate) fn received(&mut self, device: &mut Device, attempt: u64, frame: &ByteString) {
        // Frames to who is gone get lost on the way.
        if device.attempt() != attempt || device.vanished || device.state == State::Away {
            return;
        }
        let mut parts = frame.trim_matches(['[', ']']).split(',');
        let mut part = || parts.next().and_then(|part| part.parse::<i64>().ok());
        let (Some(partition), Some(offset)) = (part(), part()) else {
            return self.fail(format!("G4: a client got {frame}"));
        };
        let partition = i32::try_from(partition).expect("a small number");
        let last = device.last.insert(partition, offset).unwrap_or(-1);
        if last >= offset {
            self.fail(format!(
                "G4: notification {partition}-{offset} came after {last}"
            ));
        }
        device.owed.remove(&(partition, offset));
        device.got += 1;
    }

    /// Each user's events alternate and are what the log says, each once.
    fn compare(&mut self, partition: i32, events: &[PresenceEvent]) {
        let number = index(partition);
        for event in &events[self.told[number]..] {
            let message = &event.message;
            let online = message.status == Status::Online;
            let told = Told {
                user: message.user_id.clone(),
                online,
                at: message.timestamp.0,
                cause: message.cause.clone(),
                devices: usize::try_from(message.devices).expect("a few"),
                last_seen: message.last_seen.map(|seen| seen.0),
                offset: message.position.offset,
            };
            let due = self.shadows[number].told.get(self.told[number]).cloned();
            if due.as_ref() != Some(&told) {
                self.fail(format!("G3: told {told:?}, but the log says {due:?}"));
            }
            let before = self
                .online
                .insert(told.user.clone(), online)
                .unwrap_or(false);
            if before == online {
                self.fail(format!("G3: {} does not alternate", told.user));
            }
            self.told[number] += 1;
        }
    }
}

fn index(partition: i32) -> usize {
    usize::try_from(partition).expect("from 0")
}

impl World {
    /// Notes whom a notification is owed to: whoever saw their socket open by now.
    pub(crate) fn owe(&mut self, partition: i32, offset: i64, audience: &Audience) {
        let everybody = audience.users.is_empty() && audience.connections.is_empty();
        for number in 0..self.devices.len() {
            let device = &self.devices[number];
            let id = self
                .socket_of(number)
                .map(|(_, socket)| &socket.row.connection_id);
            let meant = everybody
                || audience.users.contains(&device.user)
                || id.is_some_and(|id| audience.connections.contains(id));
            let meant = meant && !audience.except.contains(&device.user);
            if meant && device.is_open() && !device.vanished {
                self.devices[number].owed.insert((partition, offset));
            }
        }
    }

    /// The device's socket is one that nobody has any reason to close.
    fn holds(&self, device: usize) -> bool {
        let Some((edge, socket)) = self.socket_of(device) else {
            return false;
        };
        let (epoch, id) = (socket.row.epoch.0, &self.edges[edge].id);
        let device = &self.devices[device];
        !device.vanished
            && socket.is_open()
            && self.is_up(Node::Edge(edge))
            && !self.checks.lives.has_ended(id, epoch)
    }

    /// G4: nothing is committed that is not delivered.
    pub(crate) fn settled_below(&mut self, partition: i32, offset: i64) {
        self.read_lives();
        self.check_receipts(partition, offset);
        for device in 0..self.devices.len() {
            let owed = self.devices[device]
                .owed
                .range((partition, i64::MIN)..(partition, offset));
            if let Some(owed) = owed.min().copied()
                && self.holds(device)
            {
                let what = format!("G4: {owed:?} is settled, but device {device} did not get it");
                self.checks.fail(what);
            }
        }
    }

    /// Whatever is settled has a receipt, and what an edge says of it twice is the same.
    fn check_receipts(&mut self, partition: i32, offset: i64) {
        let checks = &mut self.checks;
        let new = &self.broker.deliveries[checks.receipts_read..];
        let receipts = new
            .iter()
            .flat_map(|record| record.receipts.iter().map(move |receipt| (record, receipt)));
        for (record, receipt) in receipts {
            let place = (record.partition, receipt.offset);
            let told = checks.receipts.entry(place).or_default();
            for edge in &receipt.edges {
                let life = &record.edges[usize::try_from(edge.edge).expect("a place")];
                let word = (edge.unanswered.is_none()).then_some(edge.delivered);
                let known = told.entry(life.clone()).or_insert(word);
                let differs = known.is_some() && word.is_some() && *known != word;
                if differs || edge.unanswered == Some(Unanswered::Forgotten) {
                    let what = format!("receipts: {place:?} at {life:?}: {known:?}, {edge:?}");
                    checks.failures.push(what);
                }
                *known = known.or(word);
            }
        }
        checks.receipts_read = self.broker.deliveries.len();
        let told = checks.receipts.range((partition, 0)..(partition, offset));
        if told.count() != usize::try_from(offset).expect("from 0") {
            let what = format!("receipts: of {partition} below {offset} not every one is told");
            self.checks.fail(what);
        }
    }

    fn read_lives(&mut self) {
        let lives = &mut self.checks.lives;
        for record in self.broker.edges.from(lives.read) {
            lives.fold(record.offset, &record.value);
        }
    }

    /// Everything that holds at any moment.
    pub(crate) fn check(&mut self) {
        self.read_lives();
        for partition in 0..CONNECTIONS {
            let number = index(partition);
            let log = &self.broker.connections[number];
            let shadow = &mut self.checks.shadows[number];
            let mut wrong = None;
            for record in log.from(shadow.read) {
                shadow.fold(record.offset, record.at, record.value.as_ref());
                if let Some(ConnectionEvent::EdgeExpired(marker)) = &record.value
                    && !self.checks.lives.justify(marker)
                {
                    wrong = Some(format!("G3: a marker without its expiry: {marker:?}"));
                }
            }
            if let Some(wrong) = wrong {
                self.checks.fail(wrong);
            }
            self.checks
                .compare(partition, &self.broker.presence[number]);
        }
        self.check_sockets();
        self.check_ghosts();
    }

    /// G7: no socket without a right; G3: no right without its record in the log.
    fn check_sockets(&mut self) {
        let now = self.now;
        let mut wrong = Vec::new();
        for (number, edge) in self.edges.iter().enumerate() {
            let node = Node::Edge(number);
            if !self.is_up(node) || self.process(node).paused {
                continue;
            }
            let tenure = edge.tenure(now);
            for socket in edge.sockets.values().filter(|socket| socket.is_open()) {
                let row = &socket.row;
                let id = &row.connection_id;
                if tenure.is_none_or(|tenure| tenure.epoch != row.epoch) {
                    wrong.push(format!("G7: {id} is held without a tenure"));
                }
                if socket.token_ends.is_some_and(|ends| ends < now) {
                    wrong.push(format!("G7: {id} is held with an expired token"));
                }
                if self.is_revoked(number, socket) {
                    wrong.push(format!("G7: {id} is held for a revoked user"));
                }
                let shadow = &self.checks.shadows[index(self.checks.partition_of(&row.user_id))];
                let key = (row.user_id.clone(), id.clone());
                let ended = self.checks.lives.has_ended(&row.edge_id, row.epoch.0);
                if !ended && !shadow.open.contains_key(&key) {
                    wrong.push(format!(
                        "G3: {id} is held, but the log says that it is not open"
                    ));
                }
            }
        }
        self.checks.failures.extend(wrong);
    }

    /// Notes since when no edge that runs holds a socket of a user.
    pub(crate) fn see_who_is_held(&mut self) {
        for (user, id) in self.users.iter().enumerate() {
            let held = self.edges.iter().enumerate().any(|(number, edge)| {
                let node = Node::Edge(number);
                let awake = self.is_up(node) && !self.process(node).paused;
                awake
                    && edge
                        .sockets
                        .values()
                        .any(|socket| socket.row.user_id == *id)
            });
            let gone = &mut self.checks.gone[user];
            *gone = if held { None } else { gone.or(Some(self.now)) };
        }
    }

    /// G3: no ghost stays past lease + grace + 1 s while its partition has an owner.
    fn check_ghosts(&mut self) {
        let now = self.now;
        if self.lossy > 0 {
            self.checks.disturbed = now + APPEND_TIMEOUT;
        }
        if !self.store_up {
            self.checks.disturbed = self.checks.disturbed.max(now);
        }
        for partition in 0..CONNECTIONS {
            let owner = (0..self.presences.len()).any(|number| {
                let owned = self.presences[number].owned.get(&partition);
                owned.is_some_and(Owned::is_caught_up) && self.is_well(Node::Presence(number))
            });
            if !owner {
                self.checks.unowned[index(partition)] = now;
            }
        }
        self.see_who_is_held();
        for user in 0..self.users.len() {
            let id = &self.users[user];
            let Some(since) = self.checks.gone[user] else {
                continue;
            };
            let unowned = self.checks.unowned[index(self.checks.partition_of(id))];
            let since = since.max(unowned).max(self.checks.disturbed);
            if self.checks.online.get(id) == Some(&true) && now - since > GHOST {
                let what = format!("G3: {id} is a ghost for {} ms", now - since);
                self.checks.fail(what);
            }
        }
    }

    /// What holds once every fault is mended and everything is quiet.
    pub(crate) fn check_quiet(&mut self) {
        self.check();
        let mut wrong = Vec::new();
        for (number, shadow) in self.checks.shadows.iter().enumerate() {
            let (told, due) = (self.checks.told[number], shadow.told.len());
            if told != due {
                wrong.push(format!(
                    "G3: {told} of {due} events of partition {number} are told"
                ));
            }
        }
        for (user, id) in self.users.iter().enumerate() {
            let devices = self
                .devices
                .iter()
                .filter(|device| device.user == user && device.is_open());
            let (open, online) = (devices.count(), self.checks.online.get(id) == Some(&true));
            if (open > 0) != online {
                wrong.push(format!(
                    "G3: {id} has {open} devices, and is online: {online}"
                ));
            }
        }
        for (number, device) in self.devices.iter().enumerate() {
            if !device.owed.is_empty() && !device.vanished {
                wrong.push(format!(
                    "G1, G4: device {number} never got {:?}",
                    device.owed
                ));
            }
        }
        for partition in 0..NOTIFICATIONS {
            let end = self.broker.notifications[index(partition)].end;
            let committed = self.broker.pusher_group.committed.get(&partition);
            let committed = committed.map_or(0, |at| at.0);
            if committed != end {
                wrong.push(format!(
                    "G4: partition {partition} is settled up to {committed} of {end}"
                ));
            }
        }
        wrong.extend(self.check_lives());
        wrong.extend(self.check_folds());
        self.checks.failures.extend(wrong);
    }

    /// Every process knows which edges live, whatever compaction has left. Lives without a heartbeat
    /// hold nothing: who comes after the next one of the name began never hears of them.
    fn check_lives(&self) -> Vec<String> {
        let due = self.checks.lives.live();
        let memberships = (self.edges.iter().map(|edge| &edge.membership))
            .chain(self.presences.iter().map(|presence| &presence.membership))
            .chain(self.pushers.iter().map(|pusher| &pusher.membership));
        let wrong = memberships.filter_map(|membership| {
            let mut live: Vec<_> = membership
                .live()
                .filter(|life| life.push_url.is_some())
                .map(|life| (life.edge_id.clone(), life.epoch.0))
                .collect();
            live.sort();
            let read = membership.read_through() + 1 == self.broker.edges.end;
            (read && live != due).then(|| format!("membership: {live:?} live, not {due:?}"))
        });
        wrong.collect()
    }

    /// G5: folded again from the log, presence has the same bytes and the store the same rows.
    fn check_folds(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        let topic: Arc<str> = "sumu.presence".into();
        let again = crate::world::empty_store(self.store_clock());
        for partition in 0..CONNECTIONS {
            let number = index(partition);
            let log = &self.broker.connections[number];
            self.checks.fold_whole(partition, log, log.end);
            let outputs = &self.checks.whole[number].1;
            let bytes = |event| records::presence(&topic, event);
            let told = self.broker.presence[number].iter().map(bytes);
            if !told.eq(outputs.events.iter().map(bytes)) {
                wrong.push(format!(
                    "G5: partition {partition} of presence has other bytes"
                ));
            }
            let mutations = outputs.clone().take_mutations();
            crate::world::write_to(&again, &mutations);
        }
        let there = std::mem::replace(&mut self.store, again);
        let rebuilt = self.all_rows();
        self.store = there;
        let rows = self.all_rows();
        if rows != rebuilt {
            wrong.push(format!(
                "G5: the store holds\n{rows:?}, rebuilt\n{rebuilt:?}"
            ));
        }
        let open = self
            .checks
            .shadows
            .iter()
            .flat_map(|shadow| shadow.open.keys().cloned());
        let mut open: Vec<_> = open.collect();
        open.sort();
        if rows.0 != open {
            wrong.push(format!(
                "G5: the store holds {:?}, but {open:?} are open",
                rows.0
            ));
        }
        wrong
    }

    /// The rows of every user: connections, and presence as text.
    fn all_rows(&self) -> (Vec<(UserId, schemas::ConnectionId)>, Vec<String>) {
        let connections = self.rows(&self.users).unwrap_or_default().into_iter();
        let mut connections: Vec<_> = connections
            .map(|row| (row.user_id, row.connection_id))
            .collect();
        connections.sort();
        let presence = self.presence_rows(&self.users).into_iter();
        let mut presence: Vec<_> = presence.map(|row| format!("{row:?}")).collect();
        presence.sort();
        (connections, presence)
    }
}
