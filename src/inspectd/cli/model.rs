//! `inspectd model`: a model into service, what is there, and back to the one before.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use crate::audit::{self, Agreed};
use crate::config::Config;
use crate::models::gate::{Candidate, GateError, InPlace};
use crate::models::history::{Entry, History, How};
use crate::models::place::{Place, choose, places, real};
use crate::models::reload::{Told, in_service, reload, running};
use crate::models::shadow::{self, Shadow};
use crate::models::{report, signature};
use crate::progress::Progress;

/// Nobody agreed.
const NOT_AGREED: u8 = 3;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Take a model through the gate and put it into its place.
    Install(Install),
    /// Show for each place what is in service, and what was.
    List(List),
    /// Put the model before back into its place.
    Rollback(Rollback),
}

#[derive(Debug, clap::Args)]
struct To {
    /// Configuration file.
    #[arg(long, short, default_value = "/etc/inspectd/inspectd.toml")]
    config: PathBuf,
    /// Of this station.
    #[arg(long)]
    station: Option<String>,
    /// Of this view.
    #[arg(long)]
    view: Option<String>,
    /// The place itself: a model file that the configuration or a recipe names.
    #[arg(long = "as", value_name = "PATH")]
    path: Option<PathBuf>,
    /// Try the model on so many of the newest archived frames of each view that looks with it; absent: 200 at an
    /// installation, none at a rollback.
    #[arg(long, value_name = "N")]
    shadow: Option<usize>,
    /// Write a page with the pictures whose verdict changed into this folder.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Agree to whatever changes, without being asked.
    #[arg(long)]
    yes: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
In order: the signature (FILE.minisig, where [models] has a key), the card against the views that look from the \
place, loading and the golden scores on this machine and provider, and a shadow run: the newest archived frames \
scored by the new model and the present one. Where verdicts change, or nothing was compared for one of the views, \
somebody has to agree. Then the file is put into its place at once and whole, the one before is kept, and the running daemon swaps \
them between two parts. Each step stands in the audit trail.\n\n\
Exit codes: 0 in its place; 1 refused, by the gate or by the running daemon; 2 wrong usage; 3 nobody agreed.\n\n\
\x20 inspectd model install part.onnx --station press-1 --view top --report changes/")]
struct Install {
    /// The model file.
    file: PathBuf,
    #[command(flatten)]
    to: To,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Configuration file.
    #[arg(long, short, default_value = "/etc/inspectd/inspectd.toml")]
    config: PathBuf,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Signature and golden scores are checked as at an installation; a shadow run is made only with --shadow. Going back \
twice goes back further; `install` of the later file, or --to its SHA-256, goes forward again.\n\n\
Exit codes: 0 in its place; 1 refused, by the gate or by the running daemon; 2 wrong usage; 3 nobody agreed.")]
struct Rollback {
    /// Not the one before, but the one whose SHA-256 begins so.
    #[arg(long = "to", value_name = "SHA256")]
    wanted: Option<String>,
    #[command(flatten)]
    to: To,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.action {
        Action::Install(Install { file, to }) => {
            let (config, place) = find(to)?;
            let candidate = Candidate::of(&config, place, file);
            enter(&config, candidate, to, shadow::FRAMES)
        }
        Action::Rollback(Rollback { wanted, to }) => {
            let (config, place) = find(to)?;
            let candidate = Candidate::before(&config, place, wanted.as_deref());
            enter(&config, candidate, to, 0)
        }
        Action::List(list) => show(list),
    }
}

fn find(to: &To) -> anyhow::Result<(Config, Place)> {
    // A place that is empty or holds a broken model is what an installation mends.
    let (config, _) = Config::read_to_run(&to.config)?;
    let place = choose(&config, to.station.as_deref(), to.view.as_deref(), to.path.as_deref())?;
    Ok((config, place))
}

/// From a model that passed all but the shadow run to one in service.
fn enter(
    config: &Config,
    candidate: Result<Candidate<'_>, GateError>,
    to: &To,
    usual_frames: usize,
) -> anyhow::Result<ExitCode> {
    let mut candidate = match candidate {
        Err(GateError::AlreadyThere { place, sha256 }) => {
            let said =
                json!({ "place": place, "sha256": sha256, "installed": false, "reason": "already there" });
            let text = format!("{}: this model is in its place already ({sha256})\n", place.display());
            super::say(&if to.json { format!("{said}\n") } else { text })?;
            return Ok(ExitCode::SUCCESS);
        }
        other => other?,
    };
    to.tell(&opening(&candidate))?;
    let most = to.shadow.unwrap_or(usual_frames);
    let shadow = if most > 0 { try_out(&mut candidate, to, most)? } else { Shadow::default() };
    // Going back needs no frames, unless somebody asks for them.
    let is_asked = usual_frames.max(most) > 0;
    let agreed = match shadow.doubt().filter(|_| is_asked) {
        None if is_asked => Agreed::NothingChanged,
        None => Agreed::NotAsked,
        Some(_) if to.yes => Agreed::Option,
        Some(doubt) if asked(&doubt, to)? => Agreed::Person,
        Some(doubt) => {
            eprintln!("inspectd: {}", candidate.refuse(GateError::NotAgreed(doubt.clone())));
            if to.json {
                let said = json!({ "installed": false, "reason": doubt, "shadow": shadow });
                super::say(&format!("{said}\n"))?;
            }
            return Ok(ExitCode::from(NOT_AGREED));
        }
    };
    put(config, candidate, to, agreed, &shadow)
}

/// Puts a model that all agreed to into its place, and tells the daemon.
fn put(
    config: &Config,
    candidate: Candidate<'_>,
    to: &To,
    agreed: Agreed,
    shadow: &Shadow,
) -> anyhow::Result<ExitCode> {
    let file = &candidate.new.file;
    let mut said = json!({
        "installed": true, "place": candidate.place.path, "sha256": file.sha256, "name": file.card.name,
        "provider": candidate.new.provider(), "golden_difference": candidate.new.scorer.golden_difference(),
        "signed": candidate.signed.as_ref().map(|(signed, _)| signed.comment.clone()),
        "agreed": agreed, "shadow": shadow,
    });
    let place = candidate.place.path.clone();
    let InPlace { before, but } = candidate.put(agreed)?;
    let told = reload(config);
    said["before"] = before.clone().into();
    said["but"] = but.clone().into();
    said["daemon"] = match &told {
        Told::Looked(outcome) => json!({ "told": true, "taken": outcome.taken, "refused": outcome.refused }),
        Told::NotTold(why) => json!({ "told": false, "why": why }),
    };
    if to.json {
        super::say(&format!("{said}\n"))?;
    }
    let before = before.map(|sha256| format!("; `inspectd model rollback` puts {} back", short(&sha256)));
    to.tell(&format!("in its place: {}{}", place.display(), before.unwrap_or_default()))?;
    if let Some(but) = but {
        eprintln!("inspectd: the model is in its place, BUT {but}");
    }
    to.tell(&answer(&told))?;
    let refused = matches!(&told, Told::Looked(outcome) if !outcome.refused.is_empty());
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl To {
    /// For people; scripts get their one object.
    fn tell(&self, text: &str) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { super::say(&format!("{text}\n")) }
    }
}

fn answer(told: &Told) -> String {
    match told {
        Told::NotTold(why) => format!("the daemon was not told, its next start takes the model: {why}"),
        Told::Looked(outcome) => {
            let taken = outcome.taken.iter().map(|what| format!("the daemon took it: {what}"));
            let refused = outcome.refused.iter().map(|why| format!("the daemon REFUSED: {why}"));
            let lines: Vec<String> = taken.chain(refused).collect();
            if lines.is_empty() { "the daemon had nothing to change".to_owned() } else { lines.join("\n") }
        }
    }
}

fn opening(candidate: &Candidate<'_>) -> String {
    let Candidate { place, new, signed, .. } = candidate;
    let file = &new.file;
    let mut text = format!("model      {}, SHA-256 {}\n", file.card.name, file.sha256);
    text += &format!("place      {}\n", place.path.display());
    for user in &place.users {
        text += &format!("           {user}\n");
    }
    text += &match signed {
        Some((signed, key)) => format!("signature  good, by {key}: {}\n", signed.comment),
        None => "signature  not asked for: [models] has no key\n".to_owned(),
    };
    text += &format!(
        "golden     reproduced on {}, largest difference {:.6} of the limit",
        new.provider(),
        new.scorer.golden_difference()
    );
    for note in place.notes(&file.card) {
        text += &format!("\nnote       {note}");
    }
    text
}

/// The shadow run, told and where wanted as a page.
fn try_out(candidate: &mut Candidate<'_>, to: &To, most: usize) -> anyhow::Result<Shadow> {
    let mut present = candidate.present();
    let wanted = (candidate.place.users.len().saturating_mul(most)) as u64;
    let mut progress = std::io::stderr().is_terminal().then(|| Progress::new(wanted, "frames"));
    let mut done = 0;
    let shadow = candidate.shadow(present.as_mut(), most, &mut |frames| {
        done = frames;
        if let Some(progress) = &mut progress {
            progress.show(frames);
        }
    })?;
    if let Some(progress) = progress {
        progress.end(done);
    }
    to.tell(report::text(&shadow).trim_end())?;
    if let Some(dir) = &to.report {
        let (new, place) = (&candidate.new.file, &candidate.place.path);
        let shapes = [present.map_or(new.map, |present| present.file.map), new.map];
        let title = format!("{} as {}", new.path.display(), place.display());
        let page = report::write(dir, &title, &shadow, shapes)?;
        to.tell(&format!("the pictures: {}", page.display()))?;
    }
    Ok(shadow)
}

/// Asks at the terminal; nobody there is a no.
fn asked(doubt: &str, to: &To) -> anyhow::Result<bool> {
    if to.json || !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    super::say(&format!("{doubt}. Put it into service? Type yes: "))?;
    std::io::Write::flush(&mut std::io::stdout()).context("standard output")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("standard input")?;
    Ok(answer.trim() == "yes")
}

fn short(sha256: &str) -> &str {
    sha256.get(..8).unwrap_or(sha256)
}

fn show(list: &List) -> anyhow::Result<ExitCode> {
    let (config, _) = Config::read_to_run(&list.config)?;
    let signer = signature::Signer::of(&config.models);
    let trail = audit::check(&config.journal.dir);
    let unfinished = trail.as_ref().map_or(&[][..], |trail| &trail.unfinished[..]);
    let running = running(&config);
    let (mut text, mut all) = (String::new(), Vec::new());
    for place in places(&config) {
        let history = History::of(&place.path);
        let in_place = history.in_place()?;
        let entries = history.entries()?;
        let file = inspect_core::model::ModelFile::read(&place.path);
        let signature = match (&signer, &file) {
            (Err(error), _) => error.to_string(),
            (Ok(None), _) => "not asked for".to_owned(),
            (Ok(Some(_)), Err(error)) => error.to_string(),
            (Ok(Some(signer)), Ok(file)) => signer
                .verify_in_place(file)
                .map_or_else(|error| error.to_string(), |signed| format!("good: {}", signed.comment)),
        };
        let name = file.as_ref().map_or_else(ToString::to_string, |file| file.card.name.clone());
        let users: Vec<String> = place.users.iter().map(ToString::to_string).collect();
        text += &format!("{}\n  looks      {}\n", place.path.display(), users.join("; "));
        text += &match &in_place {
            Some(sha256) => format!("  in place   {} {name}\n  signature  {signature}\n", short(sha256)),
            None => "  in place   nothing\n".to_owned(),
        };
        let broken = unfinished.iter().find(|broken| real(&broken.place) == real(&place.path));
        let broken = broken.map(ToString::to_string);
        if let Some(broken) = &broken {
            text += &format!("  BROKE OFF  {broken}\n");
        }
        let serves = in_service(running.as_ref(), &place.path);
        if let Some(other) = serves.filter(|sha256| in_place.as_deref() != Some(*sha256)) {
            text += &format!("  NOT in service: the daemon goes on with {}; inspectd reload\n", short(other));
        }
        for entry in entries.iter().rev() {
            text += &line(entry, in_place.as_deref());
        }
        all.push(json!({
            "place": place.path, "users": users, "sha256": in_place, "name": name, "signature": signature,
            "in_service": serves, "history": entries, "broke_off": broken,
        }));
    }
    if let Err(error) = trail {
        eprintln!("inspectd: {error}");
    }
    super::say(&if list.json { serde_json::to_string_pretty(&all)? + "\n" } else { text })?;
    Ok(ExitCode::SUCCESS)
}

fn line(entry: &Entry, in_place: Option<&str>) -> String {
    let how = match entry.how {
        How::Found => "found there by",
        How::Installed => "installed by",
        How::RolledBack => "put back by",
    };
    let here = if in_place == Some(entry.sha256.as_str()) { "*" } else { " " };
    let signed = entry.signed_by.as_ref().map(|by| format!(", signed: {}", by.comment)).unwrap_or_default();
    let time = entry.time.strftime("%Y-%m-%d %H:%M:%SZ");
    format!("  {here} {time}  {} {} {how} {}{signed}\n", short(&entry.sha256), entry.name, entry.who)
}
