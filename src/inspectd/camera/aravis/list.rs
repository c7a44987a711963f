//! The GigE Vision and USB3 Vision cameras in reach.

use aravis::prelude::*;
use aravis::{GvInterface, Interface, UvInterface};
use serde::Serialize;

/// A camera that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What the setting `id` takes.
    pub id: String,
    /// Its maker.
    pub vendor: String,
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// IP address, or place on the USB.
    pub address: String,
    /// "GigEVision" or "USB3Vision".
    pub protocol: String,
}

/// Asks every network interface and the USB. Takes about a second.
pub fn cameras() -> Vec<Found> {
    let mut found = Vec::new();
    for interface in [GvInterface::instance(), UvInterface::instance()].into_iter().flatten() {
        interface.update_device_list();
        found.extend((0..interface.n_devices()).map(|i| one(&interface, i)));
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found
}

fn one(interface: &Interface, index: u32) -> Found {
    let text = |value: Option<aravis::glib::GString>| value.map(String::from).unwrap_or_default();
    Found {
        id: text(interface.device_id(index)),
        vendor: text(interface.device_vendor(index)),
        model: text(interface.device_model(index)),
        serial: text(interface.device_serial_nbr(index)),
        address: text(interface.device_address(index)),
        protocol: text(interface.device_protocol(index)),
    }
}
