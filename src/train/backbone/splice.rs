//! The nodes of the backbone and those that make features of its maps, put into a graph.
//!
//! The same nodes stand in the session that a fit runs and in the model file. Operators of ours among them mean the
//! same in every one of [`super::OPSETS`].
//!
//! Never here: running them.

use inspect_core::onnx::{AttributeProto, GraphProto, NodeProto, TensorProto, data_type};

use super::{Backbone, CELL_PX, Map, Whitening};
use crate::onnx::{int, ints, string};

/// Stands before the names of the nodes around the backbone.
const AROUND: &str = "features/";

impl Backbone {
    /// Channels of its chosen maps together.
    pub fn channels(&self) -> i64 {
        self.maps.iter().map(|m| m.size[0]).sum()
    }

    /// Puts scaling and backbone behind the value `pixels`, f32 `[N, channels, S, S]`, 0 to 255.
    pub(super) fn splice_maps(&self, graph: &mut GraphProto, pixels: &str, channels: i64) {
        let inverse = |c: usize| 1.0 / self.scale.std[c];
        let shift: Vec<f32> = (0..3).map(|c| -self.scale.mean[c] * inverse(c)).collect();
        let factor: Vec<f32> = (0..3).map(|c| inverse(c) / 255.0).collect();
        let mut x = pixels.to_owned();
        if channels > self.channels {
            // Colour into a network for grey: the mean of the channels.
            let mean = vec![1.0 / channels as f32; channels as usize];
            let weight = floats(graph, "grey_w", &[1, channels, 1, 1], &mean);
            x = node(graph, "Conv", "grey", &[&x, &weight], vec![ints("kernel_shape", &[1, 1])]);
        }
        // Grey into a network for colour: by broadcast, the same in every channel.
        let (c, dims) = (self.channels as usize, [1, self.channels, 1, 1]);
        let factor = floats(graph, "factor", &dims, &factor[..c]);
        let shift = floats(graph, "shift", &dims, &shift[..c]);
        let x = node(graph, "Mul", "scaled", &[&x, &factor], vec![]);
        push(graph, "Add", &[&x, &shift], vec![], &self.input);
        graph.initializer.extend(self.initializers.iter().cloned());
        graph.node.extend(self.nodes.iter().cloned());
    }

    /// The same with what makes features of the maps. Returns the name of the features,
    /// `[N, K, S / CELL_PX, S / CELL_PX]`; unwhitened where there is no whitening yet: K is then [`Self::channels`].
    pub(super) fn splice(
        &self,
        graph: &mut GraphProto,
        pixels: &str,
        channels: i64,
        whitening: Option<&Whitening>,
    ) -> String {
        self.splice_maps(graph, pixels, channels);
        let cells = self.size / CELL_PX;
        let maps: Vec<String> =
            self.maps.iter().enumerate().map(|(k, map)| on_cells(graph, k, map, cells)).collect();
        let maps: Vec<&str> = maps.iter().map(String::as_str).collect();
        let all = node(graph, "Concat", "maps", &maps, vec![int("axis", 1)]);
        let Some(Whitening { weight, bias }) = whitening else { return all };
        let (k, c) = (bias.len() as i64, self.channels());
        let weight = floats(graph, "whiten_w", &[k, c, 1, 1], weight);
        let bias = floats(graph, "whiten_b", &[k], bias);
        node(graph, "Conv", "whitened", &[&all, &weight, &bias], vec![ints("kernel_shape", &[1, 1])])
    }
}

/// One map, brought to `cells` a side.
fn on_cells(graph: &mut GraphProto, k: usize, map: &Map, cells: i64) -> String {
    let map_name = format!("{}{}", super::read::PREFIX, map.name);
    let [_, rows, columns] = map.size;
    if (rows, columns) == (cells, cells) {
        return map_name;
    }
    let scales = [1.0, 1.0, scale(rows, cells), scale(columns, cells)];
    let scales = floats(graph, &format!("scales{k}"), &[4], &scales);
    let linear = vec![string("mode", "linear"), string("coordinate_transformation_mode", "half_pixel")];
    node(graph, "Resize", &format!("resized{k}"), &[&map_name, "", &scales], linear)
}

/// The factor that makes `to` cells of `from`, of which ONNX takes the floor: rounding must not lose one.
fn scale(from: i64, to: i64) -> f32 {
    let mut scale = to as f32 / from as f32;
    while ((from as f32 * scale).floor() as i64) < to {
        scale = scale.next_up();
    }
    scale
}

fn node(
    graph: &mut GraphProto,
    op: &str,
    name: &str,
    input: &[&str],
    attribute: Vec<AttributeProto>,
) -> String {
    let output = format!("{AROUND}{name}");
    push(graph, op, input, attribute, &output);
    output
}

fn push(graph: &mut GraphProto, op: &str, input: &[&str], attribute: Vec<AttributeProto>, output: &str) {
    graph.node.push(NodeProto {
        input: input.iter().map(|s| (*s).to_owned()).collect(),
        output: vec![output.to_owned()],
        name: format!("{AROUND}to {output}"),
        op_type: op.to_owned(),
        attribute,
    });
}

fn floats(graph: &mut GraphProto, name: &str, dims: &[i64], values: &[f32]) -> String {
    let name = format!("{AROUND}{name}");
    graph.initializer.push(TensorProto {
        dims: dims.to_vec(),
        data_type: data_type::FLOAT,
        name: name.clone(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    });
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_lost_to_rounding() {
        for (from, to) in (1..200).flat_map(|from| (1..200).map(move |to| (from, to))) {
            let got = (from as f32 * scale(from, to)).floor() as i64;
            assert_eq!(got, to, "{from} to {to}");
        }
    }
}
