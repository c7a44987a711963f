//! Any bytes that a broker may send, as rumqttc takes them apart under the daemon's limit. The daemon subscribes to
//! nothing and takes no command over MQTT: all that it does with a packet is to count acknowledgements, which
//! `tests/hostile_broker.rs` sees to.

#![no_main]

use bytes::BytesMut;
use inspectd::mqtt::MAX_INCOMING_BYTES;
use libfuzzer_sys::fuzz_target;
use rumqttc::mqttbytes::v4::Packet;

fuzz_target!(|data: &[u8]| {
    let mut stream = BytesMut::from(data);
    loop {
        let before = stream.len();
        match Packet::read(&mut stream, MAX_INCOMING_BYTES) {
            Ok(_) => assert!(stream.len() < before, "a packet of no bytes"),
            Err(_) => break,
        }
    }
});
