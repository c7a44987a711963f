//! What a place holds after whatever befalls who puts a model there.

use std::io::Error;
use std::sync::OnceLock;

use minisign::KeyPair;
use proptest::prelude::*;

use super::*;
use crate::models::ModelsConfig;
use crate::models::signature::Signer;

/// What stands for a model here: its bytes are all that a place and a signature look at.
fn model(name: &str) -> Vec<u8> {
    name.repeat(3_000).into_bytes()
}

fn file_of(bytes: Vec<u8>, path: &Path) -> ModelFile {
    static DEMO: OnceLock<ModelFile> = OnceLock::new();
    let demo = DEMO.get_or_init(|| {
        ModelFile::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.onnx")).unwrap()
    });
    ModelFile { sha256: sha256(&bytes), bytes, path: path.to_owned(), card: demo.card.clone(), map: demo.map }
}

fn file(name: &str, path: &Path) -> ModelFile {
    file_of(model(name), path)
}

struct World {
    dir: tempfile::TempDir,
    keys: KeyPair,
    signer: Signer,
}

impl World {
    fn new() -> Self {
        let keys = KeyPair::generate_unencrypted_keypair().unwrap();
        let public_key = Some(keys.pk.to_base64());
        let signer = Signer::of(&ModelsConfig { public_key, ..ModelsConfig::default() }).unwrap().unwrap();
        Self { dir: tempfile::tempdir().unwrap(), keys, signer }
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("part.onnx")
    }

    fn sign(&self, bytes: &[u8], comment: &str) -> Signed {
        let text = minisign::sign(None, &self.keys.sk, bytes, Some(comment), None).unwrap().into_string();
        Signed { comment: comment.to_owned(), text }
    }

    fn put(&self, name: &str, step: Step<'_>) -> Result<Put, HistoryError> {
        self.put_as(name, How::Installed, step)
    }

    fn put_as(&self, name: &str, how: How, step: Step<'_>) -> Result<Put, HistoryError> {
        let file = file(name, &self.place());
        let signed = self.sign(&file.bytes, name);
        let who = Who { uid: 7, user: "anna".into(), sudo_user: None };
        let (sha256, time) = (file.sha256.clone(), jiff::Timestamp::now());
        let entry = Entry { sha256, name: name.into(), time, who, how, signed_by: None };
        History::of(&self.place()).put(&file, Some(&signed), entry, step)
    }

    /// What the daemon would find, taken only where somebody vouches for it.
    fn in_service(&self) -> Option<String> {
        let file = file_of(std::fs::read(self.place()).ok()?, &self.place());
        self.signer.verify_in_place(&file).unwrap();
        Some(file.sha256)
    }
}

fn sha(name: &str) -> String {
    sha256(&model(name))
}

#[test]
fn a_crash_at_any_point_leaves_the_old_or_the_new_model_whole_and_vouched_for() {
    let count = |world: &World, name: &str| {
        let mut steps = 0;
        let counted = world.put(name, &mut |_| {
            steps += 1;
            Ok(())
        });
        counted.unwrap();
        steps
    };
    let world = World::new();
    count(&world, "a");
    let steps = count(&world, "b");
    assert!(steps >= 20, "{steps}");
    let mut seen = [0, 0];
    for crash_at in 0..steps {
        let world = World::new();
        world.put("a", &mut |_| Ok(())).unwrap();
        let mut step = 0;
        let crashed = world.put("b", &mut |_| {
            step += 1;
            if step > crash_at { Err(Error::other("crash")) } else { Ok(()) }
        });
        let now = world.in_service().unwrap();
        // An error is told of a place that is as it was, and of no other.
        match crashed {
            Err(_) => assert_eq!(now, sha("a"), "step {crash_at}"),
            Ok(put) => assert!(now == sha("b") && put.but.is_some(), "step {crash_at}"),
        }
        assert!(now == sha("a") || now == sha("b"), "step {crash_at}: {now}");
        seen[usize::from(now == sha("b"))] += 1;
        // Whatever was left is no hindrance, and the one before can be gone back to.
        world.put("c", &mut |_| Ok(())).unwrap();
        assert_eq!(world.in_service(), Some(sha("c")));
        assert!(History::of(&world.place()).before(Some(&sha("a"))).is_ok());
        let left = std::fs::read_dir(world.dir.path().join("part.onnx.history")).unwrap();
        assert!(left.flatten().all(|f| !f.file_name().to_string_lossy().ends_with(PART)));
    }
    assert!(seen[0] > 5 && seen[1] > 2, "{seen:?}");
}

#[test]
fn going_back_twice_goes_back_further() {
    let world = World::new();
    let history = History::of(&world.place());
    assert!(matches!(history.before(None), Err(HistoryError::NoneBefore { .. })));
    std::fs::write(world.place(), model("a")).unwrap(); // as it came with the box
    for name in ["b", "c"] {
        world.put(name, &mut |_| Ok(())).unwrap();
    }
    let how: Vec<How> = history.entries().unwrap().iter().map(|e| e.how).collect();
    assert_eq!(how, [How::Found, How::Installed, How::Installed]);
    for name in ["b", "a"] {
        assert_eq!(history.before(None).unwrap().sha256, sha(name));
        world.put_as(name, How::RolledBack, &mut |_| Ok(())).unwrap();
        assert_eq!(history.in_place().unwrap(), Some(sha(name)));
    }
    assert!(history.before(None).is_err(), "nothing was before it");
    assert_eq!(history.before(Some(&sha("c")[..8])).unwrap().sha256, sha("c"), "and forward by its name");
}

#[test]
fn no_more_models_are_kept_than_said_and_never_the_one_in_service_dropped() {
    let world = World::new();
    let names: Vec<String> =
        (0..KEEP_MODELS as u32 + 3).map(|n| char::from_u32(97 + n).unwrap().to_string()).collect();
    for name in &names {
        world.put(name, &mut |_| Ok(())).unwrap();
    }
    let kept = std::fs::read_dir(world.dir.path().join("part.onnx.history")).unwrap();
    let kept = kept.flatten().filter(|f| f.path().extension().is_some_and(|e| e == "onnx")).count();
    assert_eq!(kept, KEEP_MODELS);
    let history = History::of(&world.place());
    assert!(history.model(&sha(names.last().unwrap())).is_file());
    assert!(!history.model(&sha(&names[0])).is_file());
    assert_eq!(history.entries().unwrap().len(), KEEP_MODELS);
}

#[test]
fn two_at_once_are_told_apart_and_a_broken_index_is_named() {
    let world = World::new();
    world.put("a", &mut |_| Ok(())).unwrap();
    let mut inner = None;
    world
        .put("b", &mut |_| {
            inner.get_or_insert_with(|| world.put("c", &mut |_| Ok(())).unwrap_err().to_string());
            Ok(())
        })
        .unwrap();
    assert!(inner.unwrap().contains("another"));
    std::fs::write(world.dir.path().join("part.onnx.history/index.json"), b"{").unwrap();
    let error = world.put("c", &mut |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("index.json") && error.contains("move it away"), "{error}");
    assert_eq!(world.in_service(), Some(sha("b")));
}

#[test]
fn what_the_disk_does_not_give_back_is_replaced_by_what_was_there() {
    for present in [Some("a"), None] {
        let world = World::new();
        if let Some(name) = present {
            world.put(name, &mut |_| Ok(())).unwrap();
        }
        let part = world.dir.path().join("part.onnx.part");
        let mut spoilt = 0;
        let spoil = &mut |step: &str| {
            // The first time only: what is put back is good.
            if step == "rename" && part.exists() && spoilt == 0 {
                spoilt += 1;
                std::fs::write(&part, "not what was written")?;
            }
            Ok(())
        };
        let error = world.put("b", spoil).unwrap_err().to_string();
        assert!(error.contains("there again") && error.contains(&sha("b")), "{error}");
        assert_eq!(world.in_service(), present.map(sha));
        let entries = History::of(&world.place()).entries().unwrap();
        assert!(entries.iter().all(|entry| entry.name != "b"), "it never was in its place");
    }
    let world = World::new();
    world.put("a", &mut |_| Ok(())).unwrap();
    let part = world.dir.path().join("part.onnx.part");
    let always = &mut |step: &str| {
        if step == "rename" && part.exists() { std::fs::write(&part, "spoilt") } else { Ok(()) }
    };
    let error = world.put("b", always).unwrap_err();
    assert!(matches!(error, HistoryError::NotPutBack { .. }), "{error}");
}

#[test]
fn an_index_without_end_is_not_begun() {
    let world = World::new();
    world.put("a", &mut |_| Ok(())).unwrap();
    let index = world.dir.path().join("part.onnx.history/index.json");
    std::fs::write(&index, vec![b' '; MAX_INDEX_BYTES as usize + 1]).unwrap();
    let error = History::of(&world.place()).entries().unwrap_err();
    assert!(matches!(error, HistoryError::Index { .. }) && error.to_string().contains("1048577"), "{error}");
}

#[test]
fn a_link_beside_the_place_leads_root_nowhere() {
    let world = World::new();
    let other = tempfile::tempdir().unwrap();
    let victim = other.path().join("shadow");
    std::fs::write(&victim, "root's own").unwrap();
    let owner = std::fs::metadata(&victim).unwrap().uid();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(world.dir.path(), Some(4_242), Some(4_242)).unwrap();
    }
    let untouched = || {
        let now = std::fs::metadata(&victim).unwrap();
        assert_eq!((now.uid(), now.len()), (owner, 10));
    };
    world.put("a", &mut |_| Ok(())).unwrap();
    let link = |name: &str| {
        let _ = std::fs::remove_file(world.dir.path().join(name));
        std::os::unix::fs::symlink(&victim, world.dir.path().join(name)).unwrap();
    };
    // What is not yet whole is taken away, wherever it leads.
    link("part.onnx.part");
    link("part.onnx.history/index.json.part");
    link("part.onnx.minisig");
    world.put("b", &mut |_| Ok(())).unwrap();
    untouched();
    assert_eq!(world.in_service(), Some(sha("b")));
    let kept = std::fs::read_dir(world.dir.path().join("part.onnx.history")).unwrap();
    let texts: Vec<_> = kept.flatten().map(|f| std::fs::read(f.path()).unwrap()).collect();
    assert!(
        texts.iter().all(|text| text != b"root's own"),
        "nothing of it is copied to where the service reads"
    );
    link("part.onnx.history/lock");
    let error = world.put("c", &mut |_| Ok(())).unwrap_err().to_string();
    untouched();
    assert!(error.contains("lock"), "{error}");
}

#[test]
fn a_model_that_was_cut_short_is_kept_and_replaced() {
    let world = World::new();
    std::fs::write(world.place(), &model("a")[..1000]).unwrap();
    world.put("b", &mut |_| Ok(())).unwrap();
    assert_eq!(world.in_service(), Some(sha("b")));
}

#[test]
fn only_what_the_key_signed_is_taken() {
    let world = World::new();
    let path = world.place();
    let model = file("a", &path);
    let beside = beside(&path);
    let refused = |what: &str| {
        let error = world.signer.verify(&model).unwrap_err().to_string();
        assert!(error.contains("part.onnx") && error.contains(what), "{error}");
    };
    refused("not signed");
    let good = world.sign(&model.bytes, "fitted by anna");
    std::fs::write(&beside, &good.text).unwrap();
    assert_eq!(world.signer.verify(&model).unwrap().comment, "fitted by anna");
    for wrong in [
        world.sign(b"something else", "x").text,
        World::new().sign(&model.bytes, "another key").text,
        good.text.replace("anna", "bert"),
        String::new(),
        "x".repeat(5_000),
    ] {
        std::fs::write(&beside, wrong).unwrap();
        assert!(world.signer.verify(&model).is_err());
    }
}

#[test]
fn a_key_that_cannot_be_had_refuses_every_model() {
    let file = Some(PathBuf::from("/no/such/minisign.pub"));
    let of = |public_key: Option<&str>, public_key_file: Option<PathBuf>| {
        Signer::of(&ModelsConfig { public_key: public_key.map(str::to_owned), public_key_file })
    };
    assert!(of(None, None).unwrap().is_none());
    assert!(of(None, file.clone()).is_err() && of(Some("nonsense"), None).is_err());
    let pk = World::new().keys.pk;
    assert!(of(Some(&pk.to_base64()), file).is_err());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("minisign.pub");
    std::fs::write(&path, pk.to_box().unwrap().to_string()).unwrap();
    assert_eq!(of(None, Some(path)).unwrap().unwrap().text, pk.to_base64());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn no_changed_byte_of_model_or_signature_is_taken(at: prop::sample::Index, bits in 1u8.., of_model: bool) {
        let world = World::new();
        let path = world.place();
        let bytes = b"a model's bytes, for the signature all the same".to_vec();
        let mut signature = world.sign(&bytes, "good").text.into_bytes();
        let mut model = file_of(bytes, &path);
        if of_model {
            let at = at.index(model.bytes.len());
            model.bytes[at] ^= bits;
        } else {
            // The first line is a comment that nobody signs.
            let first = signature.iter().position(|&b| b == b'\n').unwrap() + 1;
            let at = first + at.index(signature.len() - first - 1);
            signature[at] ^= bits;
        }
        std::fs::write(beside(&path), signature).unwrap();
        prop_assert!(world.signer.verify(&model).is_err());
    }
}
