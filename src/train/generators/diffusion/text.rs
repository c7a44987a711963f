//! Words to attend to: a small transformer over a closed vocabulary, learned with the model.
//!
//! What it has not seen it does not know: words outside the vocabulary are told where captions are read
//! ([`crate::generators::conditions`]), and word orders unlike the captions' may be understood otherwise than meant.
//!
//! Terms: *begin* a learned token before the words. It is always there, so that something can be attended to
//! where the text is missing, and it gathers what the whole text says.
//!
//! Never here: reading captions.

use tch::{Kind, Tensor};

use crate::generators::layers::{Layers, waves};
use crate::generators::unet::Text;

const LAYERS: usize = 2;

/// Shapes: words `[N, L]`, 0 where there is none → tokens `[N, 1 + L, width]`
/// Source: Vaswani et al. 2017, norm first as in Xiong et al. 2020.
pub fn encode(layers: &Layers, words: &Tensor, vocabulary: i64, width: i64) -> Text {
    let (n, length) = (words.size()[0], words.size()[1]);
    let begin = layers.row("text_begin", width).view([1, 1, width]).expand([n, 1, width], false);
    let place = Tensor::arange(length, (Kind::Float, layers.device()));
    let place = waves(&(place + 1.0), width / 2, 0.01); // [L, width]
    let each = layers.table(words, "text_words", (vocabulary + 1, width)) + place;
    let mut x = Tensor::cat(&[begin, each], 1);
    let always = Tensor::ones([n, 1], (Kind::Bool, layers.device()));
    let known = Tensor::cat(&[always, words.gt(0)], 1);
    for i in 0..LAYERS {
        let h = layers.layer_norm(&x, &format!("text{i}_norm"));
        x = &x + layers.attention(&h, &h, Some(&known), &format!("text{i}"));
        let h = layers.layer_norm(&x, &format!("text{i}_wide_norm"));
        x = &x + layers.perceptron(&h, &format!("text{i}_wide"), (2 * width, width));
    }
    Text { tokens: layers.layer_norm(&x, "text_norm"), known }
}
