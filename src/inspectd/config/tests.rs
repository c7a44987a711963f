//! What a person who writes a configuration is told.

use inspect_core::card::{Limits, Thresholds};

use super::*;
use crate::record::ThresholdSource;
use crate::thresholds::ThresholdConfig;

fn check(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    Config::read(&path).unwrap_err().to_string()
}

#[test]
fn structural_errors_of_all_sections_are_found_at_once() {
    let text = r#"
        [modbus]
        listen = "nowhere"
        [journal]
        foo = 1
        [[station]]
        name = "a"
        deadline = 5
        [[station.view]]
        name = "top"
        camera = { kind = "telepathy" }
    "#;
    let error = check(text);
    for at in ["modbus.listen", "journal.foo", "station[0].deadline", "station[0].view[0].camera"] {
        assert!(error.contains(at), "{at} is not in:\n{error}");
    }
}

#[test]
fn an_error_names_line_and_column_and_shows_no_password() {
    let cases = [
        ("[journal]\ndir = \"j\"\nurl = rtsp://admin:s3cret@cam", "line 3"),
        (
            "[journal]\ndir = \"j\"\n[[station]]\nname = { url = \"rtsp://admin:s3cret@cam\" }",
            "line 4, column 8",
        ),
        ("[journal]\ndir = \"j\"\n[modbus]\nlisten = \"rtsp://admin:s3cret@cam\"", "line 4, column 10"),
    ];
    for (text, place) in cases {
        let error = check(text);
        assert!(
            error.contains(place) && !error.contains("s3cret"),
            "{place} is not in, or a password is:\n{error}"
        );
    }
}

#[test]
fn a_file_that_is_no_configuration_is_not_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, "#".repeat(MAX_CONFIG_BYTES as usize + 1)).unwrap();
    assert!(Config::read(&path).unwrap_err().to_string().contains("at most 1048576 bytes"));
    assert!(Config::read(Path::new("/dev/zero")).unwrap_err().to_string().contains("ordinary file"));
}

#[test]
fn a_listener_in_the_lines_network_demands_to_know_its_clients() {
    let text = |modbus: &str, in_sight: &str| {
        format!(
            r#"
            [journal]
            dir = "j"
            [modbus]
            {modbus}
            [[station]]
            name = "a"
            trigger = {{ source = "plc" }}
            deadline_ms = 100
            gate = {{ time_to_gate_ms = 200, plc_poll_ms = 10, plc_scan_ms = 10 }}
            {in_sight}
            [[station.view]]
            name = "top"
            model = "missing.onnx"
            camera = {{ kind = "simulated" }}
            "#
        )
    };
    let problems = |modbus: &str, in_sight: &str| {
        let text = text(modbus, in_sight);
        Config::parse(&text, Path::new("t.toml"), Path::new(".")).unwrap().problems().settings.join("\n")
    };
    let (open, plc) = ("listen = '192.0.2.1:502'", "clients = [{ address = '192.0.2.10', may = 'write' }]");
    assert!(problems(open, "").contains("modbus.clients"));
    assert_eq!(problems(&format!("{open}\n{plc}"), ""), "");
    let camera = |more: &str| format!("in_sight = {{ listen = '192.0.2.1:5021'{more} }}");
    assert!(problems("", &camera("")).contains("station[0].in_sight.clients"), "modbus has no list either");
    assert_eq!(problems("", &camera(&format!(", {plc}"))), "");
    assert_eq!(problems(&format!("{open}\n{plc}"), &camera("")), "", "the list of modbus holds for it");
    let panel = "clients = [{ address = '192.0.2.0/24', may = 'read' }]";
    assert!(problems(&format!("{open}\n{panel}"), "").contains("nobody could trigger"));
    assert_eq!(
        problems(&format!("{open}\n{panel}"), &camera(&format!(", {plc}"))),
        "",
        "the PLC comes there"
    );
}

#[test]
fn settings_that_would_reject_every_part_are_found() {
    let text = r#"
        [journal]
        dir = "j"
        [runtime]
        library = "missing.so"
        [[station]]
        name = "a b"
        trigger = { source = "plc" }
        deadline_ms = 1
        gate = { time_to_gate_ms = 20, plc_poll_ms = 10, plc_scan_ms = 20 }
        [[station.view]]
        name = "top"
        model = "missing.onnx"
        roi = { x = 500, y = 0, width = 0, height = 9 }
        camera = { kind = "simulated" }
    "#;
    let error = check(text);
    for at in ["library", ".name", "deadline_ms", "time_to_gate_ms", "roi", "missing.onnx"] {
        assert!(error.contains(at), "{at} is not in:\n{error}");
    }
}

#[test]
fn thresholds_may_be_tightened_and_loosened_only_with_a_word() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let card = ModelFile::read(&folder.join("models/demo.onnx")).unwrap().card;
    let at = |factor: f32, unproven| ThresholdConfig {
        review: Some(card.thresholds.review * factor),
        reject: Some(card.thresholds.reject * factor),
        unproven,
    };
    assert_eq!(at(0.5, false).under(&card, 1).unwrap().1, ThresholdSource::Tightened);
    assert!(at(2.0, false).under(&card, 1).is_err());
    assert_eq!(at(2.0, true).under(&card, 1).unwrap().1, ThresholdSource::Unproven);
    assert!(at(f32::NAN, true).under(&card, 1).is_err());
    assert!(at(f32::INFINITY, true).under(&card, 1).is_err());
    assert_eq!(ThresholdConfig::default().under(&card, 1).unwrap().1, ThresholdSource::Card);
}

#[test]
fn a_wrong_model_or_key_in_its_place_does_not_keep_the_daemon_and_the_mend_from_starting() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.onnx");
    let problems = |models: &str, thresholds: &str| {
        let text = format!(
            r#"
            [journal]
            dir = "j"
            [models]
            {models}
            [[station]]
            name = "a"
            trigger = {{ source = "plc" }}
            deadline_ms = 100
            gate = {{ time_to_gate_ms = 200, plc_poll_ms = 10, plc_scan_ms = 10 }}
            [[station.view]]
            name = "top"
            model = '{}'
            thresholds = {{ {thresholds} }}
            camera = {{ kind = "simulated" }}
            "#,
            demo.display()
        );
        let Problems { settings, files } =
            Config::parse(&text, Path::new("t.toml"), Path::new(".")).unwrap().problems();
        (settings.join("\n"), files.join("\n"))
    };
    let none = String::new();
    assert_eq!(problems("", ""), (none.clone(), none.clone()));
    // Another model may have higher limits.
    let (settings, files) = problems("", "reject = 1000.0");
    assert_eq!(settings, "");
    assert!(files.contains("view[0].thresholds: expected at most the card's"), "{files}");
    let (settings, files) = problems("public_key_file = '/no/such/minisign.pub'", "");
    assert_eq!(settings, "");
    assert!(files.contains("models.public_key_file: /no/such/minisign.pub"), "{files}");
    // What no file can heal.
    for wrong in ["reject = -1.0", "reject = inf", "review = 2.0, reject = 1.0, unproven = true"] {
        assert!(problems("", wrong).0.contains("view[0].thresholds"), "{wrong}");
    }
    assert!(problems("public_key = 'nonsense'", "").0.contains("models.public_key"));
    let both = "public_key = 'nonsense'\npublic_key_file = '/no/such'";
    assert!(problems(both, "").0.contains("got both"));
}

#[test]
fn a_view_among_others_has_its_share_of_the_budget() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut card = ModelFile::read(&folder.join("models/demo.onnx")).unwrap().card;
    let thresholds = Thresholds { review: card.thresholds.review, reject: card.thresholds.reject * 1.5 };
    card.calibration.shares = vec![Limits { thresholds, provisional: true }];
    let usual = ThresholdConfig::default();
    assert_eq!(usual.under(&card, 2).unwrap(), (thresholds, ThresholdSource::CardShare));
    // The card knows nothing of three: its limits for one are lower, and reject more.
    assert_eq!(usual.under(&card, 3).unwrap(), (card.thresholds, ThresholdSource::Card));
    assert!(without_share(&card, 2).is_none() && without_share(&card, 3).unwrap().contains("3 views"));
    let loose = ThresholdConfig { reject: Some(thresholds.reject), ..usual };
    assert!(loose.under(&card, 1).is_err(), "looser than a view alone may be");
    assert_eq!(loose.under(&card, 2).unwrap().1, ThresholdSource::CardShare);
}

#[test]
fn a_camera_must_suit_its_stations_trigger() {
    let station = |trigger: &str, camera: &str| {
        let text = format!(
            r#"
            [journal]
            dir = "j"
            [[station]]
            name = "a"
            trigger = {trigger}
            deadline_ms = 100
            gate = {{ time_to_gate_ms = 200, plc_poll_ms = 10, plc_scan_ms = 20 }}
            [[station.view]]
            name = "top"
            model = "missing.onnx"
            camera = {camera}
        "#
        );
        Config::parse(&text, Path::new("t.toml"), Path::new(".")).unwrap().problems().settings.join("\n")
    };
    let (plc, clock, free) =
        ("{ source = 'plc' }", "{ source = 'clock', period_ms = 500 }", "{ source = 'free_run' }");
    let stream = "{ kind = 'opencv', url = 'rtsp://cam/1' }";
    for trigger in [plc, clock] {
        let refused = station(trigger, stream);
        assert!(refused.contains("view[0].camera.kind") && refused.contains("exposed"), "{refused}");
    }
    assert_eq!(station(free, stream), "");
    let aravis = |trigger: &str| format!("{{ kind = 'aravis', id = 'a', trigger = '{trigger}' }}");
    for trigger in ["software", "line0"] {
        assert_eq!(station(plc, &aravis(trigger)), "");
        assert!(station(free, &aravis(trigger)).contains("view[0].camera.trigger"));
    }
    assert_eq!(station(free, &aravis("free_run")), "");
}

#[test]
fn an_in_sight_camera_needs_a_listener_of_its_own_and_the_plcs_trigger() {
    let station = |name: &str, trigger: &str, listen: &str| {
        format!(
            r#"
            [[station]]
            name = "{name}"
            trigger = {{ source = "{trigger}" }}
            deadline_ms = 100
            gate = {{ time_to_gate_ms = 200, plc_poll_ms = 10, plc_scan_ms = 10 }}
            in_sight = {{ listen = "{listen}" }}
            [[station.view]]
            name = "top"
            model = "missing.onnx"
            camera = {{ kind = "simulated" }}
            "#
        )
    };
    let text = "[journal]\ndir = \"j\"".to_owned()
        + &station("a", "plc", "127.0.0.1:502")
        + &station("b", "plc", "127.0.0.1:5021")
        + &station("c", "plc", "127.0.0.1:5021")
        + &station("d", "free_run", "127.0.0.1:5022");
    let error = check(&text);
    for at in ["station[0].in_sight.listen", "station[2].in_sight.listen", "station[3].in_sight:"] {
        assert!(error.contains(at), "{at} is not in:\n{error}");
    }
    assert!(!error.contains("station[1].in_sight"), "{error}");
}
