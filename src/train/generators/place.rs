//! Where on a good a defect goes, and in which outline.
//!
//! The mask of a real defect is turned as the part may lie and moved to where the good looks most like what was round
//! that defect: what broke at an edge breaks at an edge. A class without real defects gets the mask of a procedural one.
//!
//! Never here: what is drawn there.

use std::collections::BTreeSet;

use rand::RngExt as _;

use super::conditions::{Wish, words_of};
use super::crops::{lit, plane, window_on};
use super::known::Known;
use super::sample::{ATTEMPTS, Maker};
use crate::defects::{Family, Ground, Random, make};
use crate::pose::{Pose, Window};

/// Share of the real masks, and least number of them, that are near enough to a wish.
const NEAR: (f64, usize) = (0.2, 3);
/// A mask on a part in a fixture moves by up to this fraction of the crop's side.
const SHIFT: usize = 8;
/// Places on a good that are tried for a mask.
const PLACES_TRIED: usize = 48;

impl Maker<'_> {
    /// A real defect's mask on a good, turned as the part may lie and moved to where it fits: the window around it,
    /// and what that shows of it.
    pub(super) fn mask_of(&self, r: &mut Random, known: &Known, good: usize) -> (Window, Vec<f32>) {
        let turn = self.turns.get(r.random_range(0..self.turns.len().max(1))).copied().unwrap_or(0);
        let (whole, crop) = (self.whole(), self.crop());
        let pose = Pose { turn, ..Pose::PLAIN };
        let turned = plane(&known.mask, whole, &pose, Window { at: [0; 2], side: whole });
        let seen = window_on(r, &turned, whole, crop).unwrap_or(Window { at: [0; 2], side: crop });
        let mask = plane(&turned, whole, &Pose::PLAIN, seen);
        let round = lit(&known.pixels, self.goods.input, &pose, seen);
        (Window { at: self.place(r, good, seen, (&round, &mask)), side: crop }, mask)
    }

    /// The mask of a real defect that is near to the wish, on a good.
    pub(super) fn real_mask(&self, r: &mut Random, real: &[&Known], good: usize) -> (Window, Vec<f32>) {
        let mut ranked: Vec<(f64, &Known)> = real.iter().map(|k| (self.distance(k), *k)).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        let near = ((ranked.len() as f64 * NEAR.0).ceil() as usize).max(NEAR.1).min(ranked.len());
        let nothing_told = self.order.wish.text.is_none() && self.order.wish.process.is_empty();
        let chosen = ranked[r.random_range(0..if nothing_told { ranked.len() } else { near })].1;
        self.mask_of(r, chosen, good)
    }

    /// Of some places for a mask the one that looks most like what was round it. `seen`: where it was.
    /// Shape: `round` `[C, s, s]`, mask `[s, s]`.
    fn place(
        &self,
        r: &mut Random,
        good: usize,
        seen: Window,
        (round, mask): (&[f32], &[f32]),
    ) -> [usize; 2] {
        let (crop, room) = (seen.side, self.whole() - seen.side);
        let reach = if self.fixed { crop / SHIFT } else { self.whole() };
        let tried = std::iter::once(seen.at).chain((1..PLACES_TRIED).map(|_| {
            seen.at.map(|v| r.random_range(v.saturating_sub(reach).min(room)..=(v + reach).min(room)))
        }));
        let places: Vec<[usize; 2]> = tried.collect();
        let unlike = |at: &[usize; 2]| -> f32 {
            let here =
                lit(&self.goods.pixels[good], self.goods.input, &Pose::PLAIN, Window { at: *at, side: crop });
            let apart = here.iter().zip(round).zip(mask.iter().cycle());
            apart.map(|((a, b), m)| if *m < 0.5 { (a - b).abs() } else { 0.0 }).sum()
        };
        let ranked = places.iter().map(|at| (unlike(at), at));
        ranked.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(seen.at, |(_, at)| *at)
    }

    /// How far what is said of a real defect lies from the wish.
    fn distance(&self, known: &Known) -> f64 {
        let words = |w: &Wish| w.text.as_deref().map(words_of).into_iter().flatten().collect::<BTreeSet<_>>();
        let (asked, said) = (words(&self.order.wish), words(&known.wish));
        let text = if asked.is_empty() {
            0.0
        } else {
            // Jaccard: what both say of what either says.
            1.0 - asked.intersection(&said).count() as f64 / asked.union(&said).count().max(1) as f64
        };
        let parameters = &self.generator.header.catalogue.parameters;
        let process: f64 = parameters
            .iter()
            .filter_map(|p| Some((p, self.order.wish.process.get(&p.name)?)))
            .map(|(p, wished)| {
                known.wish.process.get(&p.name).map_or(2.0, |v| (p.z(*v) - p.z(*wished)).abs())
            })
            .sum();
        2.0 * text + process
    }

    /// The mask of a procedural defect: of the family that the class is, else of any.
    pub(super) fn procedural_mask(&self, r: &mut Random, class: &str, good: usize) -> (Window, Vec<f32>) {
        let family: Vec<Family> = Family::ALL.into_iter().filter(|f| f.to_string() == class).collect();
        let (crop, input) = (self.crop(), self.goods.input);
        let channels = usize::from(input.channels);
        let mut last = (Window { at: [0; 2], side: crop }, vec![0.0; crop * crop]);
        for _ in 0..ATTEMPTS {
            let window = Window { at: [0, 1].map(|_| r.random_range(0..=self.whole() - crop)), side: crop };
            let cut = |good: usize| lit(&self.goods.pixels[good], input, &Pose::PLAIN, window);
            let (own, other) = (cut(good), cut(r.random_range(0..self.goods.pixels.len())));
            let ground = Ground { good: &own, other: &other, side: crop, channels, matters: None };
            last = (window, make(r, &ground, &family).mask);
            if last.1.contains(&1.0) {
                break;
            }
        }
        last
    }

    pub(super) fn where_it_matters(&self, mut mask: Vec<f32>, window: Window) -> Vec<f32> {
        if let Some(matters) = &self.goods.mask {
            let matters = plane(matters, self.whole(), &Pose::PLAIN, window);
            mask.iter_mut().zip(matters).for_each(|(m, w)| *m = if w < 0.5 { 0.0 } else { *m });
        }
        mask
    }
}
