//! Where a server says that it is.

use crate::process::Home;

/// The kubeconfig names what the API is bound to, though the node has another address: 192.0.2.1 is nobody's.
#[test]
fn a_kubeconfig_names_the_address_that_answers() {
    let home = Home::new("bound");
    // The later of two equal flags wins.
    let server = home.start(&["--node-ip", "192.0.2.1"]);
    let text = std::fs::read_to_string(&home.kubeconfig).unwrap();
    assert!(text.contains(&format!("server: https://127.0.0.1:{}\n", home.port)), "{text}");
    // Others look for it where its node is.
    let status = home.status().unwrap();
    let member = &status["members"][0];
    assert!(
        status.to_string().contains(&format!("https://192.0.2.1:{}", home.port)),
        "{member}"
    );
    server.stop();
}

/// A server whose data directory is not where it was is not ready, and says so in its log.
#[test]
fn a_data_directory_that_is_replaced_ends_readiness() {
    let home = Home::new("replaced");
    let server = home.start(&[]);
    assert_eq!(home.ready(), Some(200));
    let aside = home.data_dir.with_file_name("aside");
    std::fs::rename(&home.data_dir, &aside).unwrap();
    assert_eq!(home.ready(), Some(500));
    std::fs::create_dir(&home.data_dir).unwrap();
    assert_eq!(home.ready(), Some(500));
    let log = home.log();
    assert!(
        log.contains(&format!("the data directory {}", home.data_dir.display())),
        "{log}"
    );
    std::fs::remove_dir(&home.data_dir).unwrap();
    std::fs::rename(&aside, &home.data_dir).unwrap();
    assert_eq!(home.ready(), Some(200));
    server.stop();
}
