//! What befalls etcd, the line, the servers and the readers, fault by fault.
//!
//! Owns the order of each scenario and its bounds. Must not know what the checker looks at.

use std::time::Duration;

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use tokio::time::{Instant, sleep};

use super::{
    check::{Property, Verdict},
    world::{Setup, World},
    writer::{Deed, Diet},
};
use crate::{eventually, kratos, seconds};

/// How long readers may take to know everything once etcd is back.
const CONVERGE_MAX: Duration = Duration::from_secs(5);

/// How long a restore that nobody was told of may stay unnoticed.
const SILENT_RESTORE_MAX: Duration = Duration::from_secs(30);

/// How long a frozen member may be taken for a live one.
const FREEZE_SHOWN_MAX: Duration = Duration::from_secs(10);

/// How long it may take until another endpoint is tried in place of a frozen one.
const FREEZE_LEFT_MAX: Duration = Duration::from_secs(15);

/// How many readers come at once.
const CROWD: usize = 500;

/// What can befall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "`as_str` and `story` say what each is")]
pub enum Fault {
    Calm,
    EtcdKill,
    EtcdFreeze,
    LeaderKill,
    FollowerKill,
    OwnMemberKill,
    QuorumLoss,
    LeaderFreeze,
    LineCut,
    LineStall,
    LineSlow,
    LineReset,
    CompactedAway,
    CompactedMidList,
    RestoreLower,
    RestorePassed,
    RestoreSilent,
    RestoreServerDown,
    Nospace,
    Lease5000,
    ServerKill,
    ServerTerm,
    HaltedReaders,
    Return500,
    Return500Apart,
    Poison,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::Calm,
        Self::EtcdKill,
        Self::EtcdFreeze,
        Self::LeaderKill,
        Self::FollowerKill,
        Self::OwnMemberKill,
        Self::QuorumLoss,
        Self::LeaderFreeze,
        Self::LineCut,
        Self::LineStall,
        Self::LineSlow,
        Self::LineReset,
        Self::CompactedAway,
        Self::CompactedMidList,
        Self::RestoreLower,
        Self::RestorePassed,
        Self::RestoreSilent,
        Self::RestoreServerDown,
        Self::Nospace,
        Self::Lease5000,
        Self::ServerKill,
        Self::ServerTerm,
        Self::HaltedReaders,
        Self::Return500,
        Self::Return500Apart,
        Self::Poison,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::EtcdKill => "etcd-kill",
            Self::EtcdFreeze => "etcd-freeze",
            Self::LeaderKill => "leader-kill",
            Self::FollowerKill => "follower-kill",
            Self::OwnMemberKill => "own-member-kill",
            Self::QuorumLoss => "quorum-loss",
            Self::LeaderFreeze => "leader-freeze",
            Self::LineCut => "line-cut",
            Self::LineStall => "line-stall",
            Self::LineSlow => "line-slow",
            Self::LineReset => "line-reset",
            Self::CompactedAway => "compacted-away",
            Self::CompactedMidList => "compacted-mid-list",
            Self::RestoreLower => "restore-lower",
            Self::RestorePassed => "restore-passed",
            Self::RestoreSilent => "restore-silent",
            Self::RestoreServerDown => "restore-server-down",
            Self::Nospace => "nospace",
            Self::Lease5000 => "lease-5000",
            Self::ServerKill => "server-kill",
            Self::ServerTerm => "server-term",
            Self::HaltedReaders => "halted-readers",
            Self::Return500 => "return-500",
            Self::Return500Apart => "return-500-apart",
            Self::Poison => "poison",
        }
    }

    /// What happens in it.
    pub fn story(self) -> &'static str {
        match self {
            Self::Calm => "nothing: readers come and go",
            Self::EtcdKill => "a single etcd is killed (kill -9) and comes back",
            Self::EtcdFreeze => "a single etcd is frozen (SIGSTOP) and thaws",
            Self::LeaderKill => "of three members the leader is killed, and comes back later",
            Self::FollowerKill => "of three members a follower is killed, and comes back later",
            Self::OwnMemberKill => "the member that a server is connected to is killed, and stays away",
            Self::QuorumLoss => "two of three members are killed and come back",
            Self::LeaderFreeze => "the leader is frozen, and thaws only after all is well without it",
            Self::LineCut => "the line between servers and etcd is cut",
            Self::LineStall => "the line stands, and nothing passes",
            Self::LineSlow => "the line passes little",
            Self::LineReset => "the line's connections are reset, thrice",
            Self::CompactedAway => "etcd compacts while servers and readers are away",
            Self::CompactedMidList => "etcd compacts while a server is between its list and its watch",
            Self::RestoreLower => "etcd comes back from a backup, at a lower revision",
            Self::RestorePassed => "etcd comes back from a backup and has passed the old revision before anybody looks",
            Self::RestoreSilent => "etcd comes back from a backup, and the servers' old connections say nothing",
            Self::RestoreServerDown => "etcd comes back from a backup while the servers are down",
            Self::Nospace => "etcd's space runs out, and is made",
            Self::Lease5000 => "a lease with 5,000 keys expires",
            Self::ServerKill => "a server with 500 streams is killed, and all of them come back",
            Self::ServerTerm => "a server with 500 streams ends by SIGTERM, and all of them come back",
            Self::HaltedReaders => "50 readers stop reading for longer than they may",
            Self::Return500 => "500 readers come with one old cursor to a server that has just started",
            Self::Return500Apart => "500 readers come with cursors of their own to a server that has just started",
            Self::Poison => "values and keys that nobody ought to write",
        }
    }

    /// The fault of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.as_str() == name)
    }

    fn setup(self) -> Setup {
        let ordinary = Setup::default();
        match self {
            Self::LeaderKill | Self::FollowerKill | Self::OwnMemberKill | Self::QuorumLoss | Self::LeaderFreeze => {
                Setup { cluster: true, ..ordinary }
            }
            // What expires between the last look at a history and its end would be nowhere to be read.
            Self::RestoreLower | Self::RestorePassed | Self::RestoreSilent | Self::RestoreServerDown => {
                Setup { expiring: false, ..ordinary }
            }
            Self::Nospace => Setup { etcd_args: &["--quota-backend-bytes", "6000000"], ..ordinary },
            Self::ServerKill | Self::ServerTerm | Self::Return500 | Self::Return500Apart => {
                Setup { rest: Duration::from_millis(80), ..ordinary }
            }
            Self::HaltedReaders => Setup { diet: Diet::Large, ..ordinary },
            Self::Poison => Setup { diet: Diet::Poison, ..ordinary },
            _ => ordinary,
        }
    }
}

fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Plays one scenario and judges it.
pub async fn play(fault: Fault, seed: u64) -> Verdict {
    // Each fault has choices of its own, or the same seed would try the same moment everywhere.
    let number = Fault::ALL.iter().position(|other| *other == fault).unwrap_or_default() as u64;
    let mut world = World::build(seed.wrapping_mul(1_000).wrapping_add(number), &fault.setup()).await;
    sleep(millis(900)).await;
    let from = Instant::now();
    befall(fault, &mut world).await;
    let mut troubles = vec![(from, Instant::now())];
    if matches!(fault, Fault::Calm | Fault::Poison) {
        troubles.clear();
    }
    world.facts.troubles.extend(troubles);
    sleep(millis(600)).await;
    world.finish().await
}

async fn befall(fault: Fault, world: &mut World) {
    match fault {
        Fault::Calm => {
            sleep(seconds(4)).await;
            world.converge(Instant::now(), CONVERGE_MAX).await;
        }
        Fault::Poison => {
            sleep(seconds(3)).await;
            world.converge(Instant::now(), CONVERGE_MAX).await;
        }
        Fault::EtcdKill => etcd_kill(world).await,
        Fault::EtcdFreeze => etcd_freeze(world).await,
        Fault::LeaderKill | Fault::FollowerKill | Fault::OwnMemberKill => member_kill(fault, world).await,
        Fault::QuorumLoss => quorum_loss(world).await,
        Fault::LeaderFreeze => leader_freeze(world).await,
        Fault::LineCut | Fault::LineStall | Fault::LineSlow | Fault::LineReset => line(fault, world).await,
        Fault::CompactedAway => compacted_away(world).await,
        Fault::CompactedMidList => compacted_mid_list(world).await,
        Fault::RestoreLower | Fault::RestorePassed | Fault::RestoreSilent | Fault::RestoreServerDown => {
            restore(fault, world).await;
        }
        Fault::Nospace => nospace(world).await,
        Fault::Lease5000 => lease_5000(world).await,
        Fault::ServerKill | Fault::ServerTerm => server_ends(fault, world).await,
        Fault::HaltedReaders => halted_readers(world).await,
        Fault::Return500 | Fault::Return500Apart => return_500(fault, world).await,
    }
}

async fn etcd_kill(world: &mut World) {
    world.etcds.members[0].kill();
    let died = Instant::now();
    let away = [300, 2_000, 6_500][world.rng.usize(..3)];
    sleep(millis(away)).await;
    shown_by(world, died, died + seconds(5)).await;
    world.etcds.members[0].start().await;
    world.converge(Instant::now(), CONVERGE_MAX).await;
}

/// Checks that every server which is lost by `until` has said so.
async fn shown_by(world: &mut World, since: Instant, until: Instant) {
    if Instant::now() < until {
        return;
    }
    for server in 0..2 {
        let Some(running) = &world.servers[server] else { continue };
        let answer = running.get("/instances").await;
        if answer.status == 200 && answer.json().get("stale_for_s").is_none() {
            let what = format!("server {server} says nothing of its trouble {:?} after it began", since.elapsed());
            world.facts.complaints.push((Property::Converged, what));
        }
    }
}

async fn etcd_freeze(world: &mut World) {
    world.etcds.members[0].pause();
    let froze = Instant::now();
    let frozen = [1_500, 5_000, 12_500][world.rng.usize(..3)];
    sleep(millis(frozen)).await;
    shown_by(world, froze, froze + FREEZE_SHOWN_MAX).await;
    world.etcds.members[0].resume();
    world.converge(Instant::now(), CONVERGE_MAX).await;
}

async fn member_kill(fault: Fault, world: &mut World) {
    let leader = world.etcds.leader().await;
    let victim = match fault {
        Fault::LeaderKill => leader,
        Fault::FollowerKill => (leader + 1 + world.rng.usize(..2)) % 3,
        // Server number n prefers member number n.
        _ => world.rng.usize(..2),
    };
    world.etcds.members[victim].kill();
    let mut since = Instant::now();
    let marker = world.put_marker().await;
    if victim == leader {
        // Nobody can write before another member leads.
        since = Instant::now();
    }
    world.seen(marker, since, CONVERGE_MAX).await;
    if fault != Fault::OwnMemberKill {
        world.etcds.members[victim].start().await;
        world.converge(Instant::now(), CONVERGE_MAX).await;
    }
}

async fn quorum_loss(world: &mut World) {
    let stays = world.rng.usize(..3);
    let victims: Vec<usize> = (0..3).filter(|member| *member != stays).collect();
    for victim in &victims {
        world.etcds.members[*victim].kill();
    }
    sleep(millis([1_000, 4_000][world.rng.usize(..2)])).await;
    for victim in &victims {
        world.etcds.members[*victim].start_unasked();
    }
    // etcd has come back when it takes a write again.
    let marker = world.put_marker().await;
    world.seen(marker, Instant::now(), CONVERGE_MAX).await;
}

async fn leader_freeze(world: &mut World) {
    let leader = world.etcds.leader().await;
    world.etcds.members[leader].pause();
    let froze = Instant::now();
    let marker = world.put_marker().await;
    sleep((froze + FREEZE_SHOWN_MAX).saturating_duration_since(Instant::now())).await;
    for server in 0..2 {
        if world.has_shown(server, marker) {
            continue;
        }
        let Some(running) = &world.servers[server] else { continue };
        let answer = running.get("/instances").await;
        if answer.status == 200 && answer.json().get("stale_for_s").is_none() {
            let what = format!("server {server} passes what it knows off as live {:?} after a freeze", froze.elapsed());
            world.facts.complaints.push((Property::Converged, what));
        }
    }
    world.seen(marker, froze, FREEZE_LEFT_MAX + CONVERGE_MAX).await;
    world.etcds.members[leader].resume();
    world.converge(Instant::now(), CONVERGE_MAX).await;
}

async fn line(fault: Fault, world: &mut World) {
    match fault {
        Fault::LineCut => {
            for _ in 0..3 {
                world.each_line().for_each(crate::FaultProxy::sever);
                sleep(millis(world.rng.u64(100..1_500))).await;
                world.each_line().for_each(crate::FaultProxy::heal);
                sleep(millis(world.rng.u64(0..600))).await;
            }
        }
        Fault::LineStall => {
            world.each_line().for_each(crate::FaultProxy::stall);
            sleep(millis([1_500, 5_000, 12_500][world.rng.usize(..3)])).await;
        }
        Fault::LineSlow => {
            world.each_line().for_each(|line| line.slow(24 * 1024));
            sleep(seconds(4)).await;
        }
        _ => {
            for _ in 0..3 {
                for line in world.each_line() {
                    line.reset().await;
                }
                sleep(millis(world.rng.u64(50..1_200))).await;
            }
        }
    }
    world.each_line().for_each(crate::FaultProxy::heal);
    world.converge(Instant::now(), CONVERGE_MAX).await;
}

async fn compacted_away(world: &mut World) {
    // With the line whole, only readers that are away can miss what is compacted.
    for away in [false, true] {
        if away {
            world.each_line().for_each(crate::FaultProxy::sever);
            sleep(millis(world.rng.u64(300..1_500))).await;
        }
        world.compact().await;
        sleep(millis(world.rng.u64(50..800))).await;
        world.compact().await;
        world.each_line().for_each(crate::FaultProxy::heal);
        world.converge(Instant::now(), CONVERGE_MAX).await;
    }
}

async fn compacted_mid_list(world: &mut World) {
    let server = world.new_server().await;
    let bytes = world.rng.usize(200..40_000);
    world.lines[server][0].stall_after(bytes);
    world.launch_server(server).await;
    for name in ["mid list", "mid list"] {
        let plan = world.plan(name, server);
        world.read(plan);
    }
    let cursors = world.readers[0].cursors();
    let mut plan = world.plan("mid list, with a cursor", server);
    plan.cursor = cursors.first().cloned();
    world.read(plan);
    sleep(millis(world.rng.u64(300..1_500))).await;
    world.compact().await;
    sleep(millis(200)).await;
    world.compact().await;
    world.lines[server][0].heal();
    // The list's page may have to be given up first.
    world.converge(Instant::now(), CONVERGE_MAX).await;
}

async fn restore(fault: Fault, world: &mut World) {
    let backup = world.etcds.members[0].backup();
    sleep(millis(world.rng.u64(400..1_500))).await;
    world.writer.pause().await;
    if fault == Fault::RestorePassed {
        world.each_line().for_each(crate::FaultProxy::sever);
    }
    if fault == Fault::RestoreSilent {
        world.each_line().for_each(crate::FaultProxy::hold);
    }
    if fault == Fault::RestoreServerDown {
        world.kill_server(0);
        world.kill_server(1);
    }
    // Cursors of the history that is about to end, from readers of everything.
    let everything = world.readers.iter().filter(|reader| reader.plan.selection.is_empty());
    let cursors: Vec<String> = everything.flat_map(|reader| reader.cursors().into_iter().rev().take(3)).collect();
    let of_epoch = world.writer.epoch();
    let url = world.url();
    let old = world.truth.read(&url).await;
    world.etcds.members[0].put_back(&backup);
    world.facts.restores.push(Instant::now());
    world.writer.next_epoch();
    world.etcds.members[0].start().await;
    let back = world.etcds.members[0].revision().await;
    world.truth.restored(back);
    world.writer.go_on();
    let mut since = Instant::now();
    let mut bound = CONVERGE_MAX;
    match fault {
        Fault::RestorePassed => {
            world.writer.rest(millis(1));
            while world.etcds.members[0].revision().await < old + 20 {
                sleep(millis(50)).await;
            }
            world.writer.rest(millis(8));
            world.each_line().for_each(crate::FaultProxy::heal);
            since = Instant::now();
        }
        Fault::RestoreSilent => bound = SILENT_RESTORE_MAX,
        Fault::RestoreServerDown => {
            world.start_server(0).await;
            world.start_server(1).await;
            since = Instant::now();
        }
        _ => {}
    }
    world.converge(since, bound).await;
    world.each_line().for_each(crate::FaultProxy::heal);
    // Past the old revision only what stood there tells one history from the other.
    world.writer.rest(millis(1));
    while world.etcds.members[0].revision().await < old + 20 {
        sleep(millis(50)).await;
    }
    world.writer.rest(millis(8));
    world.converge(Instant::now(), CONVERGE_MAX).await;
    // Who was away all the time comes back when nothing else tells of the restore any more.
    for (number, cursor) in cursors.into_iter().enumerate() {
        let mut plan = world.plan("was away", number % 2);
        plan.cursor = Some(cursor);
        plan.cursor_epoch = of_epoch;
        if number % 3 == 2 {
            plan.selection = ["pay", "marker"].map(str::to_owned).into();
        }
        world.read(plan);
    }
}

async fn nospace(world: &mut World) {
    let mut client = world.etcds.members[0].client().await;
    let filler = vec![b'x'; 400_000];
    let mut number = 0;
    while client.put(format!("/elsewhere/fill/{number}"), filler.clone(), None).await.is_ok() {
        number += 1;
        assert!(number < 200, "etcd's space never runs out");
    }
    sleep(seconds(2)).await;
    let below = etcd_client::DeleteOptions::new().with_prefix();
    client.delete("/elsewhere/fill/", Some(below)).await.expect("etcd deletes without space");
    world.compact().await;
    world.etcds.members[0].disarm().await;
    world.converge(Instant::now(), CONVERGE_MAX).await;
}

async fn lease_5000(world: &mut World) {
    let mut client = world.etcds.members[0].client().await;
    let ttl_s = world.rng.i64(4..7);
    let lease = client.lease_grant(ttl_s, None).await.expect("etcd grants").id();
    world.writer.note_lease(lease, true);
    for batch in 0..50 {
        let puts: Vec<TxnOp> = (0..100)
            .map(|number| {
                let id = batch * 100 + number;
                let value = kratos("many", &id.to_string(), "http://10.0.0.1:80");
                let options = PutOptions::new().with_lease(lease);
                TxnOp::put(format!("/microservices/many/{id}"), value, Some(options))
            })
            .collect();
        client.txn(Txn::new().and_then(puts)).await.expect("etcd takes a transaction");
    }
    if world.rng.bool() {
        // The keys leave while nobody can see it.
        world.each_line().for_each(crate::FaultProxy::sever);
    }
    gone(&client, "/microservices/many/0").await;
    world.each_line().for_each(crate::FaultProxy::heal);
    world.converge(Instant::now(), CONVERGE_MAX).await;
}

async fn gone(client: &Client, key: &str) {
    eventually("the lease runs out", seconds(20), || async {
        let answer = client.kv_client().get(key, None).await.map_err(|error| error.to_string())?;
        if answer.kvs().is_empty() { Ok(()) } else { Err("it stands".to_owned()) }
    })
    .await;
}

async fn server_ends(fault: Fault, world: &mut World) {
    for number in 0..CROWD {
        let mut plan = world.plan("crowd", 0);
        if number % 5 == 0 {
            plan.selection = ["pay", "marker"].map(str::to_owned).into();
        }
        world.read(plan);
    }
    world.converge(Instant::now(), CONVERGE_MAX).await;
    if fault == Fault::ServerKill {
        world.kill_server(0);
    } else {
        world.end_server(0).await;
    }
    sleep(millis(world.rng.u64(0..800))).await;
    world.start_server(0).await;
    world.converge(Instant::now(), CONVERGE_MAX).await;
}

async fn halted_readers(world: &mut World) {
    for number in 0..50 {
        let mut plan = world.plan("halts", number % 2);
        plan.halts = true;
        world.read(plan);
    }
    world.converge(Instant::now(), CONVERGE_MAX).await;
    world.halted.send_replace(true);
    world.writer.rest(millis(6));
    let halted = Instant::now();
    while halted.elapsed() < seconds(13) {
        sleep(seconds(3)).await;
        let marker = world.put_marker().await;
        let asked = Instant::now();
        let others = |world: &World| {
            world
                .readers
                .iter()
                .filter(|reader| !reader.plan.halts && !reader.plan.roams)
                .all(|reader| reader.marker(marker).is_some())
        };
        while !others(world) && asked.elapsed() < CONVERGE_MAX {
            sleep(millis(20)).await;
        }
        if !others(world) {
            let what = "readers wait for others that do not read".to_owned();
            world.facts.complaints.push((Property::Converged, what));
        }
    }
    world.writer.rest(millis(8));
    world.halted.send_replace(false);
    // Fifty at once have tens of megabytes each to read: that takes this machine a while.
    world.converge(Instant::now(), CONVERGE_MAX * 3).await;
}

async fn return_500(fault: Fault, world: &mut World) {
    sleep(seconds(3)).await;
    let mut cursors: Vec<String> = Vec::new();
    for reader in world.readers.iter().filter(|reader| reader.plan.selection.is_empty()) {
        cursors.extend(reader.cursors());
    }
    let server = world.new_server().await;
    world.launch_server(server).await;
    let one = cursors[world.rng.usize(..cursors.len() / 4)].clone();
    for number in 0..CROWD {
        let mut plan = world.plan("returns", server);
        let own = &cursors[world.rng.usize(..cursors.len())];
        plan.cursor = Some(if fault == Fault::Return500 { one.clone() } else { own.clone() });
        if number % 4 == 0 {
            plan.selection = ["order", "marker"].map(str::to_owned).into();
        }
        world.read(plan);
    }
    world.writer.note(Deed::Other, Instant::now(), None);
    world.converge(Instant::now(), CONVERGE_MAX).await;
}
