//! How near a wish lies to the pictures that a generator learnt from: where it knows, and where it guesses.
//!
//! A *row* holds the process parameters of one such picture, in standard deviations. Of a wish that names a class
//! only the rows of that class count: what wear does to a burr says nothing of what it does to a stain, and the
//! generator can no more than hope that it is the same. A row that lacks a parameter of the wish does not count
//! either.
//!
//! Never here: captions, pictures; whether a guess is allowed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conditions::{Catalogue, Wish};

/// Most rows that are kept.
pub const MAX_ROWS: usize = 512;
/// A row is near if each parameter of the wish is within so many standard deviations: where values are spread evenly,
/// a seventh of their range each way. In each, so that a gap in one does not hide behind others that fit. A choice,
/// not a measured limit.
pub const NEAR: f64 = 0.5;

/// The values of a process parameter that were learnt from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Least.
    pub low: f64,
    /// Largest.
    pub high: f64,
    /// How many values were known.
    pub count: usize,
}

impl Span {
    /// Whether a value lies in it.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    fn with(self, value: f64) -> Self {
        Self { low: self.low.min(value), high: self.high.max(value), count: self.count + 1 }
    }
}

/// Where a wish lies among the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Nearness {
    /// Standard deviations to the nearest row; `None` if no row counts.
    pub distance: Option<f64>,
    /// Rows that are near, see [`NEAR`].
    pub near: usize,
    /// Rows that count.
    pub of: usize,
}

impl Catalogue {
    /// Keeps the rows of what is known of pictures, and the span of each parameter in each class.
    pub(super) fn remember(&mut self, known: &[Wish]) {
        for parameter in &mut self.parameters {
            let told =
                known.iter().filter_map(|w| Some((w.class.as_ref()?, *w.process.get(&parameter.name)?)));
            let mut in_class = BTreeMap::<String, Span>::new();
            for (class, value) in told {
                let none = Span { low: value, high: value, count: 0 };
                let span = in_class.entry(class.clone()).or_insert(none);
                *span = span.with(value);
            }
            parameter.in_class = in_class;
        }
        let told: Vec<&Wish> = known.iter().filter(|w| !w.process.is_empty()).collect();
        let every = told.len().div_ceil(MAX_ROWS).max(1);
        let kept = || told.iter().step_by(every);
        self.rows = kept().map(|w| self.row(w)).collect();
        self.row_classes = kept().map(|w| self.number(w)).collect();
    }

    /// Class number of a wish; 0 if it has none that is known.
    fn number(&self, wish: &Wish) -> i64 {
        wish.class.as_deref().and_then(|c| self.class(c).ok()).unwrap_or(0)
    }

    /// How far a wish's parameters lie from the rows: root of the mean square of the differences over the parameters
    /// of the wish.
    pub fn nearness(&self, wish: &Wish) -> Nearness {
        let (wished, class) = (self.row(wish), self.number(wish));
        let of_class = |n: usize| wish.class.is_none() || self.row_classes.get(n) == Some(&class);
        let apart = |row: &Vec<Option<f32>>| {
            let pairs = wished.iter().zip(row).filter_map(|(a, b)| Some(f64::from((*a)? - (*b)?).abs()));
            let all: Vec<f64> = pairs.collect();
            (all.len() == wished.iter().flatten().count() && !all.is_empty()).then_some(all)
        };
        let counted = self.rows.iter().enumerate().filter(|(n, _)| of_class(*n));
        let apart: Vec<Vec<f64>> = counted.filter_map(|(_, row)| apart(row)).collect();
        let distance = |all: &Vec<f64>| (all.iter().map(|d| d * d).sum::<f64>() / all.len() as f64).sqrt();
        Nearness {
            distance: apart.iter().map(distance).min_by(f64::total_cmp),
            near: apart.iter().filter(|all| all.iter().all(|d| *d <= NEAR)).count(),
            of: apart.len(),
        }
    }

    /// Standard deviations from a wish to the nearest row, see [`Catalogue::nearness`]. `None` if no row counts.
    pub fn distance(&self, wish: &Wish) -> Option<f64> {
        self.nearness(wish).distance
    }

    /// The values of a parameter that were learnt from, in pictures of a class. `None` if it was known of none.
    pub fn span(&self, parameter: &str, class: &str) -> Option<Span> {
        self.parameters.iter().find(|p| p.name == parameter)?.in_class.get(class).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(class: &str, process: &[(&str, f64)]) -> Wish {
        let process = process.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
        Wish { class: Some(class.to_owned()).filter(|c| !c.is_empty()), text: None, process }
    }

    fn catalogue() -> Catalogue {
        let known = [
            wish("rust", &[("wear", 0.2), ("feed", 5.0)]),
            wish("burr", &[("wear", 0.6)]),
            wish("burr", &[("feed", 7.0), ("wear", 1.0)]),
        ];
        Catalogue::learn(&["scratch".into()], &known).unwrap()
    }

    #[test]
    fn distance_is_that_to_the_nearest_picture_that_was_learnt_from() {
        let catalogue = catalogue();
        let at = |wear| catalogue.distance(&wish("", &[("wear", wear)])).unwrap();
        assert!(at(0.6) < 1e-6 && at(0.8) > 0.1 && at(3.0) > at(2.0));
        // No picture has feed 7 with wear 0.2: near in each is not near in both.
        let both = catalogue.distance(&wish("", &[("wear", 0.2), ("feed", 7.0)])).unwrap();
        assert!(both > 1.0, "{both}");
        assert_eq!(catalogue.distance(&Wish::default()), None);
    }

    #[test]
    fn what_was_learnt_of_one_class_is_not_near_to_another() {
        let catalogue = catalogue();
        let near = |c: &Catalogue, class: &str, wear| c.nearness(&wish(class, &[("wear", wear)]));
        let rust = near(&catalogue, "rust", 0.2);
        assert!(rust.distance.unwrap() < 1e-6 && (rust.near, rust.of) == (1, 1));
        let burr = near(&catalogue, "burr", 0.2);
        assert!(burr.distance.unwrap() > 1.0 && (burr.near, burr.of) == (0, 2));
        assert_eq!(near(&catalogue, "scratch", 0.2), Nearness::default());
        // Half of it fits: the mean of both is small, but it is not near.
        let half = catalogue.nearness(&wish("burr", &[("wear", 0.78), ("feed", 7.0)]));
        assert!(half.distance.unwrap() < NEAR && (half.near, half.of) == (0, 1), "{half:?}");
        assert_eq!(catalogue.span("wear", "burr"), Some(Span { low: 0.6, high: 1.0, count: 2 }));
        assert_eq!(catalogue.span("feed", "rust"), Some(Span { low: 5.0, high: 5.0, count: 1 }));
        assert_eq!((catalogue.span("wear", "scratch"), catalogue.span("speed", "burr")), (None, None));
    }

    #[test]
    fn of_many_pictures_a_sample_is_kept_and_the_whole_span() {
        let known: Vec<Wish> = (0..1500).map(|i| wish("burr", &[("wear", f64::from(i))])).collect();
        let catalogue = Catalogue::learn(&[], &known).unwrap();
        assert_eq!((catalogue.rows.len(), catalogue.row_classes.len()), (500, 500));
        assert_eq!(catalogue.span("wear", "burr"), Some(Span { low: 0.0, high: 1499.0, count: 1500 }));
    }
}
