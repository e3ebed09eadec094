//! The examples, run as their readers run them.

use rollcall_tests::{
    Etcd, Process, example,
    wait::{eventually, seconds},
};

async fn says(program: &Process, what: &str) {
    eventually(&format!("it says {what:?}"), seconds(20), || async {
        if program.stdout().iter().any(|line| line == what) {
            Ok(())
        } else {
            Err((program.stdout(), program.stderr()))
        }
    })
    .await;
}

#[tokio::test]
async fn the_plain_pair_registers_watches_and_takes_its_leave() {
    let etcd = Etcd::spawn().await;
    let address = etcd.address();
    let watch = example("plain_watch", &[&address, "orders"]);
    says(&watch, "orders: nobody").await;
    let one = example("plain_register", &[&address, "orders", "127.0.0.1:8081"]);
    says(&watch, "orders: 127.0.0.1:8081").await;
    let mut killed = example("plain_register", &[&address, "orders", "127.0.0.1:8082"]);
    eventually("both are listed", seconds(20), || async {
        let said = watch.stdout();
        let both = |line: &String| line.contains("127.0.0.1:8081") && line.contains("127.0.0.1:8082");
        if said.iter().any(both) { Ok(()) } else { Err(said) }
    })
    .await;
    let keys = etcd.keys("services/orders/").await;
    assert_eq!(keys.len(), 2, "{keys:?}");
    let value = etcd.get(&keys[0]).await.expect("it stands");
    assert!(String::from_utf8_lossy(&value).contains("127.0.0.1:808"), "{value:?}");
    // One ends in order and is gone at once; the other is killed, and its lease runs out.
    one.signal("TERM");
    says(&one, "deregistered").await;
    says(&watch, "orders: 127.0.0.1:8082").await;
    killed.kill();
    eventually("nobody is left", seconds(40), || async {
        let said = watch.stdout();
        if said.last().is_some_and(|line| line == "orders: nobody") { Ok(()) } else { Err(said) }
    })
    .await;
}
