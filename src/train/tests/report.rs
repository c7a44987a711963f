//! The report as its readers meet it: a page and a JSON file over generated pictures, and odd input.
//!
//! The demo's model judges pictures that it was never made for: figures are meaningless, and all there.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use inspect_core::card::CARD_KEY;
use inspect_core::image::Image;
use inspect_core::onnx::{AttributeProto, ModelProto, NodeProto};
use inspect_train::evaluate::{Report, evaluate, evaluate_to_show};
use prost::Message;

const SIDE: u32 = 96;
/// A class whose name would end a tag or an attribute if it were not escaped.
const NASTY: &str = "<img src=x>&\"'";

fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo.onnx")
}

fn write(path: &Path, width: u32, height: u32, value: impl Fn(u32, u32) -> u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| value(x, y));
    Image::new(width, height, 1, pixels.collect()).unwrap().write_png(path).unwrap();
}

fn picture(path: &Path, seed: u32, spot: bool) {
    write(path, SIDE, SIDE, |x, y| {
        let noise = (x * 31 + y * 17 + seed * 101) % 23;
        if spot && (20..30).contains(&x) && (40..52).contains(&y) { 250 } else { 90 + noise as u8 }
    });
}

/// Ten goods in five lots, a masked class, and a class with a nasty name and without masks.
fn data() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = "file,group,part\n".to_owned();
    for i in 0..10 {
        picture(&dir.path().join(format!("test/good/{i}.png")), i, false);
        manifest += &format!("test/good/{i}.png,lot{},part{}\n", i / 2, i / 2);
    }
    for i in 0..6 {
        picture(&dir.path().join(format!("test/spot/{i}.png")), i + 50, true);
        let mask = dir.path().join(format!("ground_truth/spot/{i}_mask.png"));
        write(&mask, SIDE, SIDE, |x, y| if (20..30).contains(&x) && (40..52).contains(&y) { 255 } else { 0 });
        picture(&dir.path().join("test").join(NASTY).join(format!("a&<{i}>.png")), i + 90, i > 2);
    }
    std::fs::write(dir.path().join("manifest.csv"), manifest).unwrap();
    dir
}

fn run(model: &Path, data: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspect-train"));
    command.arg("evaluate").arg("--model").arg(model).arg("--data").arg(data).args(more).output().unwrap()
}

fn refused(output: &Output, expected: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !said.contains("panicked"), "{said}");
    for words in expected {
        assert!(said.contains(words), "expected `{words}` in: {said}");
    }
}

#[test]
fn the_report_is_one_page_with_every_figure_and_the_json_says_the_same() {
    let (data, out) = (data(), tempfile::tempdir().unwrap());
    let dir = out.path().join("new/report");
    let output = run(&demo_model(), data.path(), &["--report", dir.to_str().unwrap(), "--json", "-"]);
    assert!(output.status.success(), "{output:?}");
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    let file = std::fs::read_to_string(dir.join("report.json")).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&file).unwrap(), report);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "nothing but the two files");

    let html = std::fs::read_to_string(dir.join("report.html")).unwrap();
    for words in [
        "Escape rate",
        "What this does not show",
        "Verdicts",
        "Recall by type of defect",
        "AUPRO up to 0.05",
        "Attribute agreement",
        "The pictures to look at",
        "Scoring time",
        "What the words mean",
        "Reviewed by",
        &report.sha256,
        &report.data_sha256,
        &report.card.calibration.claim,
        &format!("{:.3}", report.auroc),
    ] {
        assert!(html.contains(words), "no `{words}`");
    }
    assert_eq!(html.matches("<svg").count(), 4);
    assert!(html.matches("data:image/jpeg;base64,").count() >= 8);
    for (open, close) in
        [("<figure", "</figure>"), ("<table", "</table>"), ("<svg", "</svg>"), ("<tr", "</tr>")]
    {
        assert_eq!(html.matches(open).count(), html.matches(close).count(), "{open}");
    }
    let outside = html.replace("http://www.w3.org/2000/svg", "");
    for reference in ["http:", "https:", "//cdn", "<script", "<link", "@import", "url(", "src=\"/"] {
        assert!(!outside.contains(reference), "the page needs `{reference}`");
    }
    assert!(!html.contains("<img src=x") && html.contains("&lt;img src=x&gt;"), "a name broke out");
    assert!(!html.contains("a&<") && html.contains("a&amp;&lt;"));
}

#[test]
fn groups_parts_masks_and_scores_come_out_as_they_went_in() {
    let data = data();
    let report = evaluate(&demo_model(), data.path(), false).unwrap();
    let scope = report.pixels.unwrap();
    assert_eq!((scope.good, scope.masked, scope.unmasked, scope.regions), (10, 6, 6, 6));
    assert!(report.not_shown.iter().any(|s| s.contains("6 of 12 defective pictures have no mask")));
    assert_eq!((report.intervals.good_groups, report.intervals.defective_groups), (5, 12));
    assert!(!report.intervals.singletons);
    let trials = report.attribute_agreement.trials.unwrap();
    assert_eq!((trials.parts, trials.pictures), (5, 10));
    // Whoever has the scores can count again.
    let passed = |good: bool| report.scores.iter().filter(|s| s.is_good() == good && s.passed()).count();
    assert_eq!((passed(true), passed(false)), (report.good - report.false_rejects, report.escapes));
    let limit = report.thresholds.review;
    assert!(report.scores.iter().all(|s| s.passed() == (s.score <= limit)));
    assert_eq!(report.confusion.good.pass + report.confusion.good.review + report.confusion.good.reject, 10);
    let again = evaluate(&demo_model(), data.path(), false).unwrap();
    assert_eq!(again.intervals, report.intervals, "the same pictures give the same intervals");
    assert_eq!((again.scores, again.data_sha256), (report.scores, report.data_sha256));
}

#[test]
fn every_field_of_the_json_is_explained() {
    let report = evaluate(&demo_model(), data().path(), false).unwrap();
    let explained = include_str!("../report/fields.md");
    let mut names = vec!["floor_auroc".to_owned()];
    let mut left = vec![serde_json::to_value(&report).unwrap()];
    while let Some(value) = left.pop() {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    // What a trainer sets and what it counts there is explained with the card.
                    if name != "training" {
                        left.push(value);
                    }
                    names.push(name);
                }
            }
            serde_json::Value::Array(values) => left.extend(values),
            _ => {}
        }
    }
    for name in names {
        let quoted = format!("`{name}`");
        let known = explained.contains(&quoted)
            || explained.contains(&format!("{name},"))
            || explained.contains(&format!("{name}}}"));
        assert!(known, "fields.md does not explain {quoted}");
    }
}

#[test]
fn one_picture_of_each_kind_and_equal_scores_are_judged() {
    let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for class in ["good", "same"] {
        picture(&data.path().join(format!("test/{class}/0.png")), 1, false);
    }
    for _ in 0..2 {
        // The second time over the files of the first.
        let output = run(&demo_model(), data.path(), &["--report", out.path().to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
    }
    let json = std::fs::read_to_string(out.path().join("report.json")).unwrap();
    let report: Report = serde_json::from_str(&json).unwrap();
    assert_eq!((report.auroc, report.average_precision), (0.5, 0.5));
    assert_eq!(report.intervals.auroc, None, "one group cannot be drawn otherwise");
    assert_eq!(report.pixel_auroc, None);
    let one = report.intervals.false_reject_rate.exact;
    assert!(one.high - one.low > 0.97, "one picture shows next to nothing: {one:?}");
}

#[test]
fn bad_pictures_and_masks_end_the_evaluation_by_name_and_leave_the_old_report() {
    let (data, out) = (data(), tempfile::tempdir().unwrap());
    let old = out.path().join("report.html");
    std::fs::write(&old, "old").unwrap();
    let report = ["--report", out.path().to_str().unwrap()];
    let mask = data.path().join("ground_truth/spot/3_mask.png");
    write(&mask, SIDE / 2, SIDE, |_, _| 255);
    refused(&run(&demo_model(), data.path(), &report), &["3_mask.png", "48x96", "spot/3.png", "96x96"]);
    std::fs::write(&mask, b"no picture").unwrap();
    refused(&run(&demo_model(), data.path(), &report), &["3_mask.png", "replace the mask"]);
    std::fs::write(data.path().join("test/good/4.png"), b"").unwrap();
    refused(&run(&demo_model(), data.path(), &report), &["good/4.png"]);
    std::fs::remove_dir_all(data.path().join("test/good")).unwrap();
    refused(&run(&demo_model(), data.path(), &report), &["found 0 good"]);
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "old");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1, "nothing half-written is left");
}

#[test]
fn a_score_that_is_no_number_ends_the_evaluation_with_the_pictures_name() {
    // The demo's model, its score times m / m, m being the brightest pixel: not a number where all is black.
    let mut model = ModelProto::decode(std::fs::read(demo_model()).unwrap().as_slice()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    for node in &mut graph.node {
        node.output.iter_mut().filter(|o| *o == "score").for_each(|o| *o = "plain_score".into());
    }
    let int = |name: &str, i: i64| AttributeProto { name: name.into(), r#type: 2, i, ..Default::default() };
    let node = |op: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>| NodeProto {
        input: input.iter().map(|s| (*s).to_owned()).collect(),
        output: vec![output.into()],
        name: format!("test_{output}"),
        op_type: op.into(),
        attribute,
    };
    graph.node.extend([
        node("Cast", &["image"], "as_float", vec![int("to", 1)]),
        node("ReduceMax", &["as_float"], "brightest", vec![int("keepdims", 0)]),
        node("Div", &["brightest", "brightest"], "one", Vec::new()),
        node("Mul", &["plain_score", "one"], "score", Vec::new()),
    ]);
    assert!(model.metadata_props.iter().any(|p| p.key == CARD_KEY));
    let data = data();
    let path = data.path().join("nan.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    let output = run(&path, data.path(), &[]);
    assert!(output.status.success(), "{output:?}");
    write(&data.path().join("test/spot/black.png"), SIDE, SIDE, |_, _| 0);
    refused(&run(&path, data.path(), &[]), &["spot/black.png", "score is not a finite number"]);
}

#[test]
fn a_region_of_interest_is_cut_out_of_pictures_and_masks_alike() {
    let (out, whole, cut) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // The demo's model with a region on its card: 128 x 128 pixels right of the middle.
    let mut model = ModelProto::decode(std::fs::read(demo_model()).unwrap().as_slice()).unwrap();
    let card = model.metadata_props.iter_mut().find(|p| p.key == CARD_KEY).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&card.value).unwrap();
    json["preprocessing"]["roi"] = serde_json::json!({"x": 112, "y": 64, "width": 128, "height": 128});
    card.value = json.to_string();
    let path = out.path().join("roi.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();

    let in_spot = |x: u32, y: u32| (140..156).contains(&x) && (90..110).contains(&y);
    for (dir, (left, top), side) in [(whole.path(), (0, 0), 256), (cut.path(), (112, 64), 128)] {
        for (class, spot) in [("good", false), ("spot", true)] {
            for i in 0..3 {
                let level = |x: u32, y: u32| {
                    let (x, y) = (x + left, y + top);
                    if spot && in_spot(x, y) { 250 } else { 60 + ((x * 31 + y * 17 + i * 101) % 97) as u8 }
                };
                write(&dir.join(format!("test/{class}/{i}.png")), side, side, level);
                let mask = dir.join(format!("ground_truth/{class}/{i}_mask.png"));
                write(&mask, side, side, |x, y| u8::from(spot && in_spot(x + left, y + top)));
            }
        }
    }
    let mut seen = evaluate_to_show(&path, whole.path(), false).unwrap();
    let alone = evaluate(&demo_model(), cut.path(), false).unwrap();
    let report = &seen.report;
    assert_eq!(report.scores, alone.scores);
    assert!(report.pixel_auroc.is_some() && report.pixels == alone.pixels, "{:?}", report.pixels);
    assert_eq!(
        (report.pixel_auroc, report.aupro_30, report.aupro_05),
        (alone.pixel_auroc, alone.aupro_30, alone.aupro_05)
    );
    let look = seen.look(5).unwrap();
    let mask = look.mask.unwrap();
    assert_eq!([look.image.width(), look.image.height(), mask.width(), mask.height()], [128; 4]);
    assert_eq!(mask.data().iter().filter(|v| **v == 255).count(), 16 * 20);

    write(&whole.path().join("test/spot/small.png"), 40, 40, |_, _| 90);
    refused(&run(&path, whole.path(), &[]), &["spot/small.png", "region of interest", "40x40"]);
}
