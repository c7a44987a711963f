//! From pixels as they were taken to planes as a part may also lie: mirrored, turned, moved, cut.
//!
//! Never here: chance ([`crate::batches`]).

/// A turn is used only if it leaves where the part matters as it is, up to this share of what is ignored: drawn
/// masks are off by a pixel here and there.
const MASK_DIFFERENCE: f64 = 0.2;

/// How the part may lie, hence which turned copies of a good are goods too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Symmetry {
    /// The part lies in a fixture, always the same way round: statistics are kept for each position.
    None,
    /// A mirrored part would be as good: left-right and up-down mirroring.
    Flip,
    /// The part (or surface) may lie any way round: mirroring and quarter turns.
    Rotate,
}

impl std::fmt::Display for Symmetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Symmetry::None => "none",
            Symmetry::Flip => "flip",
            Symmetry::Rotate => "rotate",
        })
    }
}

impl Symmetry {
    /// The turns ([`Pose::turn`]) that make a good of a good, the plain one first.
    ///
    /// `matters` (`[S, S]`, under 0.5: ignored): what is ignored is a place before the camera. A turn that would bring it
    /// elsewhere would show it as a part of goods.
    pub fn turns(self, matters: Option<&[f32]>, side: usize) -> Vec<u8> {
        let all = match self {
            Symmetry::None => 0..1,
            Symmetry::Flip => 0..4,
            Symmetry::Rotate => 0..8u8,
        };
        let Some(matters) = matters else { return all.collect() };
        let ignored = matters.iter().filter(|m| **m < 0.5).count() as f64;
        let stays = |turn: &u8| {
            let (mut turned, pose) = (Vec::new(), Pose { turn: *turn, ..Pose::PLAIN });
            lay(&mut turned, matters, side, 1, &pose, Window { at: [0; 2], side }, |v| v);
            let other = turned.iter().zip(matters).filter(|(a, b)| (**a < 0.5) != (**b < 0.5)).count();
            other as f64 <= ignored * MASK_DIFFERENCE
        };
        all.filter(stays).collect()
    }
}

/// How a good lies and is lit this time.
#[derive(Debug, Clone)]
pub struct Pose {
    /// Bit 0 mirrors left-right, bit 1 up-down, bit 2 transposes.
    pub turn: u8,
    /// Whole pixels to the left and up; the border is repeated.
    pub shift: [i64; 2],
    /// Factor of every value.
    pub gain: f32,
    /// Added after that, grey values.
    pub offset: f32,
}

impl Pose {
    /// As it was taken.
    pub const PLAIN: Pose = Pose { turn: 0, shift: [0; 2], gain: 1.0, offset: 0.0 };
}

/// The square of a picture that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Left and top, pixels.
    pub at: [usize; 2],
    /// Pixels.
    pub side: usize,
}

/// `[S, S, C]` → `[C, S, S]`, mirrored and turned: bit 0 left-right, bit 1 up-down, bit 2 transposed; then
/// moved by whole pixels, the border repeated.
pub fn planes(pixels: &[u8], side: usize, channels: usize, turn: u8, (dx, dy): (i64, i64)) -> Vec<f32> {
    let pose = Pose { turn, shift: [dx, dy], ..Pose::PLAIN };
    let mut out = Vec::new();
    lay(&mut out, pixels, side, channels, &pose, Window { at: [0; 2], side }, f32::from);
    out
}

/// Appends the same for any kind of pixel, turned and moved by `pose`, and only what the window shows. Light is
/// left to `value`. Shape: `[S, S, C]` → `[C, s, s]`, s the window's side.
pub fn lay<T: Copy>(
    out: &mut Vec<f32>,
    source: &[T],
    side: usize,
    channels: usize,
    pose: &Pose,
    window: Window,
    value: impl Fn(T) -> f32,
) {
    // Where a column or a row of the result lies in the source: the two add up.
    let offsets = |k: usize| -> Vec<usize> {
        let across = (k == 0) == (pose.turn & 4 == 0);
        let mirrored = pose.turn & if across { 1 } else { 2 } != 0;
        (window.at[k]..window.at[k] + window.side)
            .map(|i| (i as i64 + pose.shift[k]).clamp(0, side as i64 - 1) as usize)
            .map(|i| if mirrored { side - 1 - i } else { i })
            .map(|i| if across { i * channels } else { i * side * channels })
            .collect()
    };
    let (columns, rows) = (offsets(0), offsets(1));
    out.reserve(window.side * window.side * channels);
    for c in 0..channels {
        for row in &rows {
            let row = &source[row + c..];
            out.extend(columns.iter().map(|&column| value(row[column])));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eight_turns_are_eight_different_pictures() {
        let pixels: Vec<u8> = (0..16).collect();
        let all: std::collections::BTreeSet<Vec<u8>> =
            (0..8).map(|t| planes(&pixels, 4, 1, t, (0, 0)).iter().map(|&v| v as u8).collect()).collect();
        assert_eq!(all.len(), 8);
        let moved = planes(&pixels, 4, 1, 0, (1, 0));
        assert_eq!(moved[..4], [1.0, 2.0, 3.0, 3.0], "the border is repeated");
    }

    #[test]
    fn a_window_is_the_same_place_of_what_the_whole_shows() {
        const SIDE: usize = 64;
        let pixels: Vec<u8> = (0..SIDE * SIDE).map(|i| (i % SIDE * 2 + i / SIDE) as u8).collect();
        let (window, whole) = (Window { at: [16, 32], side: 32 }, Window { at: [0; 2], side: SIDE });
        for turn in 0..8 {
            let pose = Pose { turn, shift: [2, -1], ..Pose::PLAIN };
            let (mut all, mut part) = (Vec::new(), Vec::new());
            lay(&mut all, &pixels, SIDE, 1, &pose, whole, f32::from);
            lay(&mut part, &pixels, SIDE, 1, &pose, window, f32::from);
            assert_eq!(part[33], all[33 * SIDE + 17], "turn {turn}");
        }
    }

    #[test]
    fn only_turns_that_leave_the_mask_in_its_place_are_used() {
        const SIDE: usize = 64;
        let matters = |ignored: fn(usize, usize) -> bool| -> Vec<f32> {
            (0..SIDE * SIDE).map(|i| f32::from(u8::from(!ignored(i % SIDE, i / SIDE)))).collect()
        };
        let turns = |mask: &[f32]| Symmetry::Rotate.turns(Some(mask), SIDE);
        assert_eq!(turns(&matters(|_, y| y > 50)), [0, 1], "a belt below: left-right alone");
        assert_eq!(turns(&matters(|x, y| x < 9 && y < 9)), [0, 4], "a label in the corner");
        let round = matters(|x, y| (x as f32 - 32.4).hypot(y as f32 - 31.0) > 28.0);
        assert_eq!(turns(&round).len(), 8, "a circle drawn by hand");
        assert_eq!(
            (Symmetry::Rotate.turns(None, SIDE).len(), Symmetry::None.turns(None, SIDE)),
            (8, vec![0])
        );
    }
}
