//! Cases with a name: what broke others, and what broke this store once. Each is the smallest scene that shows it.

use std::time::Duration;

use trireme_checker::Outcome;
use trireme_store::{Applied, MemberError, ReadError, Store, WriteError};

use crate::scene::{PLENTY, SCARCE, Scene, saw, scene};
use crate::serve::{MemberChange, Told, fenced};

const KEY: &str = "/configmaps/ns/k0";
const OTHER: &str = "/configmaps/ns/k1";

async fn rest(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

fn others(of: usize) -> [usize; 2] {
    match of {
        1 => [2, 3],
        2 => [1, 3],
        _ => [1, 2],
    }
}

#[test]
fn three_members_by_join_and_each_of_them_serves() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        for number in 1..=3 {
            scene.put(number, KEY, &format!("v{number}")).await;
            for reader in 1..=3 {
                assert_eq!(saw(&scene.read(reader, KEY).await), Some(format!("v{number}").as_str()));
            }
        }
    });
}

#[test]
fn two_servers_join_at_once() {
    scene(3, PLENTY, |scene| async move {
        scene.until("the first one", |scene| scene.host(1).up()).await;
        let member = |number: usize| MemberChange::Add(scene.host(number).member.borrow().clone());
        let (two, three) = (member(2), member(3));
        futures::join!(scene.change(1, two), scene.change(1, three));
        scene.form().await;
        scene.put(3, KEY, "v").await;
    });
}

#[test]
fn a_new_member_gets_a_snapshot_and_goes_on_from_there() {
    scene(3, SCARCE, |scene| async move {
        scene.until("the first one", |scene| scene.host(1).up()).await;
        let two = scene.host(2).member.borrow().clone();
        scene.change(1, MemberChange::Add(two)).await;
        scene.until("two of them", |scene| scene.host(2).up()).await;
        // More than stays in the log behind a snapshot.
        let mut writers = Vec::new();
        for writer in 0..10 {
            let world = std::rc::Rc::clone(&scene.world);
            writers.push(tokio::task::spawn_local(async move {
                let scene = Scene { world };
                for number in 0..40 {
                    let command = fenced(&format!("/configmaps/ns/w{writer}"), &format!("{number}"), scene.term(1));
                    scene.commit(1, command).await.expect("it leads");
                }
            }));
        }
        for writer in writers {
            writer.await.expect("writers end");
        }
        rest(3_000).await;
        scene.form().await;
        let revision = scene.put(3, KEY, "v").await;
        assert!(scene.alike().await >= revision);
        let (first, new) = (scene.store(1).statistics(), scene.store(3).statistics());
        assert!(new.log_bytes < first.log_bytes / 2, "a snapshot came, not the log");
        assert!(
            scene
                .store(3)
                .range("/configmaps/", None, None, None)
                .expect("it is there")
                .items
                .len()
                > 10
        );
    });
}

#[test]
fn all_restart_at_once() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        scene.put(1, KEY, "v").await;
        for number in 1..=3 {
            scene.kill(number, false).await;
        }
        for number in 1..=3 {
            scene.start(number).await;
        }
        scene.put(2, OTHER, "v").await;
        assert_eq!(saw(&scene.read(3, KEY).await), Some("v"));
    });
}

/// etcd: a restart hung because the first server was down.
#[test]
fn servers_restart_while_the_first_one_is_down() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        scene.put(1, KEY, "v").await;
        for number in 1..=3 {
            scene.kill(number, true).await;
        }
        scene.start(2).await;
        scene.start(3).await;
        scene.leader_of(&[2, 3]).await;
        assert_eq!(saw(&scene.read(2, KEY).await), Some("v"));
        scene.put(3, OTHER, "v").await;
    });
}

/// Ours: it waited for a leadership that was not its own.
#[test]
fn the_first_server_comes_back_into_its_cluster() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        scene.kill(1, true).await;
        scene.leader_of(&[2, 3]).await;
        scene.put(2, KEY, "v").await;
        scene.start(1).await;
        scene.put(1, OTHER, "v").await;
        assert_eq!(saw(&scene.read(1, KEY).await), Some("v"));
    });
}

/// etcd: zombie members.
#[test]
fn a_removed_member_is_refused_and_notices_and_disturbs_nobody() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        let leader = scene.leader_of(&[1, 2, 3]).await;
        let [gone, stays] = others(leader);
        let id = scene.host(gone).member.borrow().id;
        scene.change(stays, MemberChange::Remove(id)).await;
        let term = scene.term(leader);
        scene
            .until("that it notices", |scene| *scene.store(gone).removed().borrow())
            .await;
        for _ in 0..2 {
            rest(3_000).await;
            assert_eq!(scene.read(gone, KEY).await, Outcome::Failed);
            assert_eq!(scene.write(gone, KEY, "zombie").await, Outcome::Failed);
            scene.put(stays, OTHER, "v").await;
            assert_eq!(scene.term(leader), term, "nobody was disturbed");
            scene.kill(gone, true).await;
            scene.start(gone).await;
            scene
                .until("that it knows", |scene| *scene.store(gone).removed().borrow())
                .await;
        }
    });
}

#[test]
fn a_member_that_was_removed_while_it_was_away_notices_when_it_is_back() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        let leader = scene.leader_of(&[1, 2, 3]).await;
        let [gone, stays] = others(leader);
        scene.kill(gone, true).await;
        rest(1_000).await;
        let id = scene.host(gone).member.borrow().id;
        scene.change(stays, MemberChange::Remove(id)).await;
        let term = scene.term(leader);
        scene.start(gone).await;
        scene
            .until("that it notices", |scene| *scene.store(gone).removed().borrow())
            .await;
        assert_eq!(scene.term(leader), term);
    });
}

#[test]
fn a_member_whose_loss_would_stop_the_others_is_not_removed() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        let leader = scene.leader_of(&[1, 2, 3]).await;
        let [down, stays] = others(leader);
        scene.kill(down, true).await;
        rest(2_000).await;
        let id = scene.host(stays).member.borrow().id;
        assert_eq!(
            scene.members(leader, MemberChange::Remove(id)).await,
            Err(MemberError::QuorumAtRisk)
        );
    });
}

#[test]
fn a_deposed_leader_serves_no_linearizable_read_and_acknowledges_no_write() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        scene.put(1, KEY, "before").await;
        let old = scene.leader_of(&[1, 2, 3]).await;
        scene.cut_off(old);
        // It does not know yet.
        assert!(!matches!(scene.write(old, KEY, "lost").await, Outcome::Applied { .. }));
        assert!(saw(&scene.read(old, KEY).await).is_none());
        let new = scene.leader_of(&others(old)).await;
        scene.put(new, KEY, "after").await;
        assert!(saw(&scene.read(old, KEY).await).is_none());
        assert!(!*scene.store(old).quorum().borrow());
        scene.mend(old);
        scene.put(old, OTHER, "v").await;
        assert_ne!(saw(&scene.read(old, KEY).await), Some("before"));
    });
}

/// etcd: stale reads after a pause.
#[test]
fn a_leader_that_was_paused_serves_no_stale_read() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        scene.put(1, KEY, "before").await;
        let old = scene.leader_of(&[1, 2, 3]).await;
        scene.pause(old);
        let new = scene.leader_of(&others(old)).await;
        scene.put(new, KEY, "after").await;
        scene.resume(old);
        for _ in 0..20 {
            let seen = scene.read(old, KEY).await;
            assert_ne!(saw(&seen), Some("before"));
            rest(5).await;
        }
        assert_eq!(saw(&scene.read(old, KEY).await), Some("after"));
    });
}

/// Ours: openraft made a restarted leader lead on without a vote, and it did not know what it had committed.
#[test]
fn a_restarted_leader_serves_no_stale_read() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        let leader = scene.leader_of(&[1, 2, 3]).await;
        for round in 0..5 {
            let value = format!("v{round}");
            scene.put(leader, KEY, &value).await;
            scene.kill(leader, true).await;
            scene.start(leader).await;
            for number in 1..=3 {
                let seen = scene.read(number, KEY).await;
                assert!(
                    matches!(seen, Outcome::Failed | Outcome::Unknown) || saw(&seen) == Some(&value),
                    "{seen:?}"
                );
            }
            scene.put(leader, OTHER, &value).await;
        }
    });
}

#[test]
fn readers_share_rounds_and_one_that_gives_up_takes_nobody_with_it() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        let leader = scene.leader_of(&[1, 2, 3]).await;
        let store = scene.store(leader);
        let readers = (0..300_u64).map(|number| {
            let store = std::sync::Arc::clone(&store);
            async move {
                rest(number % 40).await;
                let patience = if number % 3 == 0 { number % 7 } else { 5_000 };
                let outcome = tokio::time::timeout(Duration::from_millis(patience), store.barrier()).await;
                (number, outcome)
            }
        });
        let begun = turmoil::elapsed();
        for (number, outcome) in futures::future::join_all(readers).await {
            if number % 3 != 0 {
                assert!(matches!(outcome, Ok(Ok(_))), "{number}: {outcome:?}");
            }
        }
        assert!(turmoil::elapsed() - begun < Duration::from_secs(1));
    });
}

#[test]
fn a_leader_that_is_shut_down_hands_over() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        scene.put(1, KEY, "v").await;
        let old = scene.leader_of(&[1, 2, 3]).await;
        let begun = turmoil::elapsed();
        scene.store(old).shutdown().await;
        let new = scene.leader_of(&others(old)).await;
        assert!(
            turmoil::elapsed() - begun < Duration::from_millis(300),
            "nobody waited for a lease"
        );
        scene.put(new, KEY, "w").await;
    });
}

#[test]
fn without_a_quorum_writes_and_reads_fail_in_bounded_time() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        let leader = scene.leader_of(&[1, 2, 3]).await;
        for other in others(leader) {
            scene.kill(other, true).await;
        }
        for round in 0..3 {
            let begun = turmoil::elapsed();
            // Many at once, so that what waits for room fails too.
            let many = (0..100).map(|number| scene.commit(leader, fenced(&format!("{KEY}{number}"), "v", 1)));
            let outcomes = futures::future::join_all(many).await;
            assert!(outcomes.iter().all(Result::is_err), "round {round}");
            let took = turmoil::elapsed() - begun;
            assert!(took < Duration::from_secs(10), "round {round} took {took:?}");
            assert!(saw(&scene.read(leader, KEY).await).is_none());
        }
        assert!(!*scene.store(leader).quorum().borrow());
        for other in others(leader) {
            scene.start(other).await;
        }
        scene.put(leader, KEY, "v").await;
    });
}

/// Ours: a follower whose next connection to a killed leader broke, instead of being refused, looked away for 200 ms. The
/// other one left it to that one, as its heir, for 100 ms.
#[test]
fn a_killed_leader_is_followed_at_once_whoever_notices() {
    for (breaking, of) in [(0, 2), (2, 2), (2, 3), (u32::MAX, 2), (u32::MAX, 3)] {
        scene(3, PLENTY, move |scene| async move {
            scene.form().await;
            let leader = scene.leader_of(&[1, 2, 3]).await;
            let followers = others(leader);
            scene.put(leader, KEY, "v").await;
            scene.alike().await;
            rest(300).await;
            let breaks = scene.host(followers[of - 2]).name.clone();
            scene.world.net.breaking.lock().insert(breaks.clone(), breaking);
            scene.kill(leader, true).await;
            let killed = turmoil::elapsed();
            let heir = scene.leader_of(&followers).await;
            let took = turmoil::elapsed() - killed;
            println!(
                "{breaking} connections of {breaks} break: h{heir} leads {} ms later",
                took.as_millis()
            );
            assert!(
                took < Duration::from_millis(100),
                "{breaking} connections of {breaks} break: {took:?}"
            );
        });
    }
}

/// etcd: a watch that travelled back in time after a partition.
#[test]
fn a_watch_never_travels_back_in_time_after_a_partition() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        let leader = scene.leader_of(&[1, 2, 3]).await;
        let [behind, ahead] = others(leader);
        scene.put(behind, KEY, "0").await;
        scene.cut_off(behind);
        let mut last = 0;
        for number in 1..=5 {
            last = scene.put(ahead, KEY, &number.to_string()).await;
        }
        scene
            .until("the other one", |scene| scene.store(ahead).revision() == last)
            .await;
        // A client that has seen all goes on at the one that is behind.
        let mut told = scene.watch(behind, "/configmaps/", last);
        assert!(matches!(
            told.recv().await,
            Some(Told::Ended(ReadError::Future { .. }) | Told::Bookmark(_))
        ));
        scene.mend(behind);
        scene
            .until("it catches up", |scene| scene.store(behind).revision() >= last)
            .await;
        let mut told = scene.watch(behind, "/configmaps/", last);
        let next = scene.put(ahead, KEY, "6").await;
        loop {
            match told.recv().await {
                Some(Told::Event { revision, .. }) => {
                    assert_eq!(revision, next);
                    break;
                }
                Some(Told::Bookmark(revision)) => assert!(revision >= last),
                _ => panic!("the watch ended"),
            }
        }
    });
}

/// etcd: a crash during compaction took the revision back, where the last one was of a deletion.
#[test]
fn a_crash_during_compaction_does_not_take_the_revision_back() {
    scene(1, SCARCE, |scene| async move {
        scene.until("it leads", |scene| scene.host(1).up()).await;
        let mut last = 0;
        for round in 0..12 {
            let at = scene.put(1, KEY, &round.to_string()).await;
            assert!(at > last);
            let Outcome::Applied { revision } = scene.delete(1, KEY, at).await else {
                panic!("the deletion is acknowledged");
            };
            last = revision;
            // From before a compaction to behind it.
            rest(1_000 + 150 * round).await;
            scene.kill(1, round % 3 == 0).await;
            scene.start(1).await;
            assert_eq!(scene.store(1).revision(), last, "round {round}");
        }
    });
}

/// etcd: a single server acknowledged before the write was durable.
#[test]
fn a_single_server_acknowledges_only_what_is_durable() {
    scene(1, PLENTY, |scene| async move {
        scene.until("it leads", |scene| scene.host(1).up()).await;
        for round in 0..25 {
            let value = round.to_string();
            let revision = scene.put(1, KEY, &value).await;
            scene.kill(1, false).await;
            scene.start(1).await;
            assert_eq!(scene.store(1).revision(), revision);
            assert_eq!(saw(&scene.read(1, KEY).await), Some(value.as_str()));
        }
    });
}

/// etcd: the consistent index was not atomic with the commit, so that entries were applied twice or not at all.
#[test]
fn state_and_applied_index_are_of_one_point_whenever_the_power_goes() {
    scene(1, SCARCE, |scene| async move {
        scene.until("it leads", |scene| scene.host(1).up()).await;
        scene.host(1).disk.set_faults(|faults| faults.slow_ms = 4);
        let mut revision = scene.put(1, KEY, "begin").await;
        for round in 0..12 {
            for number in 0..40 {
                // Applied twice, the revision would be another one.
                let next = scene.put(1, KEY, &format!("{round}-{number}")).await;
                assert_eq!(next, revision + 1);
                revision = next;
            }
            scene.kill(1, false).await;
            scene.start(1).await;
            assert_eq!(scene.store(1).revision(), revision);
        }
    });
}

#[test]
fn a_failed_flush_is_not_acknowledged_and_what_was_is_kept() {
    scene(1, PLENTY, |scene| async move {
        scene.until("it leads", |scene| scene.host(1).up()).await;
        for round in 0..8 {
            let value = round.to_string();
            scene.put(1, KEY, &value).await;
            scene.host(1).disk.set_faults(|faults| faults.flush_fails = true);
            assert!(!matches!(scene.write(1, OTHER, "x").await, Outcome::Applied { .. }));
            assert!(matches!(
                scene.commit(1, fenced(OTHER, "y", 1)).await,
                Err(WriteError::Disk(_))
            ));
            scene
                .until("it says so", |scene| scene.store(1).failed().borrow().is_some())
                .await;
            // The process ends first, then the power: what a failed flush left in the kernel's memory goes too.
            scene.kill(1, true).await;
            scene.start(1).await;
            scene.kill(1, false).await;
            scene.start(1).await;
            assert_eq!(saw(&scene.read(1, KEY).await), Some(value.as_str()));
        }
    });
}

#[test]
fn a_full_disk_stops_no_election() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        scene.put(1, KEY, "v").await;
        let leader = scene.leader_of(&[1, 2, 3]).await;
        for number in 1..=3 {
            scene.host(number).disk.set_faults(|faults| faults.full = true);
        }
        scene.kill(leader, true).await;
        let next = scene.leader_of(&others(leader)).await;
        assert_eq!(saw(&scene.read(next, KEY).await), Some("v"));
        // Some writes find room yet; then none does, and nothing breaks.
        let mut failed = 0;
        while failed < 5 {
            let command = fenced(OTHER, "v", scene.term(next));
            failed += usize::from(scene.commit(next, command).await.is_err());
        }
        for number in 1..=3 {
            scene.host(number).disk.set_faults(|faults| faults.full = false);
        }
        scene.start(leader).await;
        scene.put(leader, KEY, "w").await;
    });
}

#[test]
fn a_server_with_a_full_disk_can_cut_its_log() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        let old = scene.leader_of(&[1, 2, 3]).await;
        scene.put(old, KEY, "v").await;
        scene.cut_off(old);
        // These go nowhere, and must give way.
        for number in 0..3 {
            assert!(!matches!(
                scene.write(old, OTHER, &format!("lost-{number}")).await,
                Outcome::Applied { .. }
            ));
        }
        let new = scene.leader_of(&others(old)).await;
        scene.put(new, KEY, "w").await;
        scene.host(old).disk.set_faults(|faults| faults.full = true);
        scene.mend(old);
        scene.alike().await;
        assert_eq!(saw(&scene.read(old, KEY).await), Some("w"));
    });
}

#[test]
fn a_leader_with_a_full_disk_lets_another_one_lead() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        let old = scene.leader_of(&[1, 2, 3]).await;
        scene.host(old).disk.set_faults(|faults| faults.full = true);
        for number in 0..500 {
            let value = number.to_string();
            scene.put(others(old)[0], OTHER, &value).await;
        }
        assert_ne!(scene.leader_of(&[1, 2, 3]).await, old);
    });
}

#[test]
fn a_clock_jump_elects_nobody_and_stops_nothing() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        scene.put(1, KEY, "v").await;
        let leader = scene.leader_of(&[1, 2, 3]).await;
        let term = scene.term(leader);
        for (number, by_ms) in [(1, 7_200_000), (2, -7_200_000), (3, 86_400_000), (leader, -86_400_000)] {
            let clock = &scene.host(number).clock_ms;
            clock.store(by_ms, std::sync::atomic::Ordering::Relaxed);
            rest(1_000).await;
            scene.put(number, OTHER, &number.to_string()).await;
        }
        assert_eq!(scene.term(leader), term);
    });
}

#[test]
fn a_write_that_is_fenced_to_an_earlier_term_is_refused() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        let old = scene.leader_of(&[1, 2, 3]).await;
        let term = scene.term(old);
        assert!(matches!(
            scene.commit(old, fenced(OTHER, "mine", term)).await,
            Ok(Applied::Committed { .. })
        ));
        scene.change(old, MemberChange::Transfer).await;
        let new = scene.leader_of(&others(old)).await;
        for number in 1..=3 {
            let fenced = scene.commit(number, fenced(OTHER, "late", term)).await;
            assert!(matches!(fenced, Ok(Applied::Fenced { .. })), "{fenced:?}");
        }
        assert!(scene.term(new) > term);
    });
}

/// Stops members, starts them elsewhere at the same time, and has each tell where it is.
async fn move_elsewhere(scene: &Scene, moved: &[usize]) {
    for number in moved {
        if scene.host(*number).up() {
            scene.kill(*number, true).await;
        }
        let host = scene.host(*number);
        host.port.set(4711);
        host.member.borrow_mut().peer = format!("{}:4711", host.name);
    }
    for number in moved {
        scene.start(*number).await;
    }
    let tell = moved.iter().map(|number| {
        let member = scene.host(*number).member.borrow().clone();
        scene.change(*number, MemberChange::Update(member))
    });
    futures::future::join_all(tell).await;
}

#[test]
fn a_member_that_moved_is_found_where_it_is_now() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        let leader = scene.leader_of(&[1, 2, 3]).await;
        let moved = others(leader)[0];
        move_elsewhere(&scene, &[moved]).await;
        let revision = scene.put(leader, KEY, "v").await;
        scene
            .until("it hears of it", |scene| scene.store(moved).revision() >= revision)
            .await;
        scene.put(moved, KEY, "w").await;
    });
}

/// Neither can be told of by a majority, nor finds the other: the one that stayed brings them together.
#[test]
fn two_of_three_that_moved_at_once_are_found() {
    for leader_stays in [true, false] {
        scene(3, PLENTY, move |scene| async move {
            scene.form().await;
            let leader = scene.leader_of(&[1, 2, 3]).await;
            let stays = if leader_stays { leader } else { others(leader)[0] };
            scene.put(leader, KEY, "v").await;
            move_elsewhere(&scene, &others(stays)).await;
            for number in 1..=3 {
                let revision = scene.put(number, KEY, "w").await;
                scene
                    .until("all hear of it", |scene| {
                        (1..=3).all(|number| scene.store(number).revision() >= revision)
                    })
                    .await;
            }
        });
    }
}

/// The one that stayed has an entry that the others lack, so that nobody else can lead, and finds no one to vote for it.
#[test]
fn who_alone_can_lead_finds_those_that_moved() {
    scene(3, PLENTY, |scene| async move {
        scene.form().await;
        let stays = scene.leader_of(&[1, 2, 3]).await;
        for number in others(stays) {
            scene.kill(number, true).await;
        }
        let unknown = scene.write(stays, KEY, "v");
        assert!(tokio::time::timeout(Duration::from_millis(100), unknown).await.is_err());
        scene.kill(stays, true).await;
        scene.start(stays).await;
        move_elsewhere(&scene, &others(stays)).await;
        for number in 1..=3 {
            scene.put(number, KEY, "w").await;
        }
    });
}

#[test]
fn damage_to_what_was_durable_refuses_to_open() {
    for file in ["log-", "snapshot-"] {
        scene(1, SCARCE, move |scene| async move {
            scene.until("it leads", |scene| scene.host(1).up()).await;
            for number in 0..60 {
                scene.put(1, KEY, &number.to_string()).await;
            }
            rest(5_000).await;
            for number in 0..3 {
                scene.put(1, KEY, &format!("more-{number}")).await;
            }
            scene.kill(1, true).await;
            assert!(scene.host(1).disk.damage(file, 70), "there is one");
            scene.world.orders.borrow_mut().push(crate::world::Order::Start { at: 0 });
            rest(1_000).await;
            assert!(!scene.host(1).up());
            let problems = scene.world.problems.take();
            assert!(problems.iter().all(|problem| problem.contains("is damaged")), "{problems:?}");
            assert_eq!(problems.len(), 1);
        });
    }
}
