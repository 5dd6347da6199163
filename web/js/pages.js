// Shows the pages of web/docs that other pages link to. The front end itself looks for them at the server's root.

import { app } from "../../../scripts/app.js";
import { word } from "./words.js";

const DOCS = new URL("../docs/", import.meta.url);
const OURS = `custom_nodes.${decodeURIComponent(DOCS.pathname.split("/").at(-3))}`; // of nodes, as the server names it
const GUIDES = {
  "guides/which_settings.md": { id: "Chroma.WhichSettings", label: "Chroma: Which file, which settings?" },
  "guides/something_looks_wrong.md": { id: "Chroma.SomethingLooksWrong", label: "Chroma: Something looks wrong" },
  "guides/many_pictures.md": { id: "Chroma.ManyPictures", label: "Chroma: Many pictures" },
  "guides/from_fluxmod.md": { id: "Chroma.FromFluxMod", label: "Chroma: Coming from FluxMod" },
};
const LANGUAGES = ["zh"]; // a page NAME.md is there in these too, as NAME/zh.md
const STYLE = `
.chroma-page { width: min(72rem, 92vw); height: 88vh; padding: 0; border: 1px solid var(--border-color);
  border-radius: 8px; background: var(--comfy-menu-bg); color: var(--input-text); font: 15px/1.5 system-ui, sans-serif; }
.chroma-page::backdrop { background: #0008; }
.chroma-page > header { position: sticky; top: 0; display: flex; gap: 8px; padding: 8px; background: inherit;
  border-bottom: 1px solid var(--border-color); }
.chroma-page button { padding: 4px 12px; border: 1px solid var(--border-color); border-radius: 4px;
  background: var(--comfy-input-bg); color: inherit; cursor: pointer; }
.chroma-page button:disabled { opacity: 0.4; cursor: default; }
.chroma-page button:last-child { margin-left: auto; }
.chroma-page > article { padding: 8px 24px 32px; user-select: text; }
.chroma-page h1 { font-size: 1.6em; font-weight: 600; margin: 0.5em 0; }
.chroma-page h2 { font-size: 1.25em; font-weight: 600; margin: 1.2em 0 0.4em; }
.chroma-page p, .chroma-page pre, .chroma-page ul, .chroma-page ol { margin: 0.6em 0; }
.chroma-page ul { list-style: disc; padding-left: 1.5em; }
.chroma-page ol { list-style: decimal; padding-left: 1.5em; }
.chroma-page a { color: var(--p-primary-color, #4b9fff); text-decoration: underline; }
.chroma-page code { padding: 0 3px; border-radius: 3px; background: var(--comfy-input-bg); font-size: 0.92em; }
.chroma-page pre { overflow-x: auto; padding: 8px; background: var(--comfy-input-bg); }
.chroma-page table { display: block; overflow-x: auto; border-collapse: collapse; margin: 0.6em 0; }
.chroma-page th, .chroma-page td { padding: 4px 8px; border: 1px solid var(--border-color); text-align: left;
  vertical-align: top; }
.chroma-page th { background: var(--comfy-input-bg); font-weight: 600; }
`;

/** The path of the English page that this is a translation of, or of the page itself. */
function english(path) {
  const [, name, language] = path.match(/^(.*)\/(\w+)\.md$/) ?? [];
  return LANGUAGES.includes(language) ? `${name}.md` : path;
}

/** The path of a page in the language of the front end, or in English. */
function translated(path) {
  const language = app.extensionManager.setting.get("Comfy.Locale");
  return LANGUAGES.includes(language) ? path.replace(/\.md$/, `/${language}.md`) : path;
}

/** The path below web/docs of what a link means, or null where it lies elsewhere. */
function belowDocs(href, from) {
  try {
    // The front end shows a translation as if it lay beside the English page, one folder higher.
    if (!from) href = href.replace(/^(\/extensions\/[^/]+\/docs\/)?\.\.\//, "$1");
    // Newer front ends make the links of a help page absolute, without a folder in which a proxy may serve ComfyUI.
    const url = href.startsWith("/extensions/")
      ? new URL(`../../..${href}`, DOCS)
      : new URL(href, new URL(from, DOCS));
    const [path, docs] = [decodeURIComponent(url.pathname), decodeURIComponent(DOCS.pathname)];
    return url.origin === DOCS.origin && path.startsWith(docs) ? path.slice(docs.length) : null;
  } catch {
    return null; // not an address
  }
}

/** The path below web/docs that a link means, or null where it is none of this pack's pages. from: the linking page. */
function pathOf(href, from) {
  const path = belowDocs(href, from);
  if (!path) return null;
  const page = english(path);
  const node = LiteGraph.registered_node_types[page.replace(/\.md$/, "")];
  return page in GUIDES || (page.endsWith(".md") && node?.nodeData?.python_module === OURS) ? path : null;
}

/** The window in which pages are shown, with a way back to those before. */
class Reader {
  constructor() {
    document.head.append(Object.assign(document.createElement("style"), { textContent: STYLE }));
    this.dialog = Object.assign(document.createElement("dialog"), { className: "chroma-page" });
    this.back = this.button(() => this.show(this.before.pop()));
    this.close = this.button(() => this.dialog.close());
    const header = document.createElement("header");
    header.append(this.back, this.close);
    this.article = document.createElement("article");
    this.dialog.append(header, this.article);
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    for (const type of ["keydown", "keyup", "copy", "wheel"]) {
      this.dialog.addEventListener(type, (event) => event.stopPropagation()); // not for the canvas behind it
    }
    document.body.append(this.dialog);
  }

  button(act) {
    const element = Object.assign(document.createElement("button"), { type: "button" });
    element.addEventListener("click", act);
    return element;
  }

  open(path) {
    if (this.dialog.open) this.before.push(this.path);
    else this.before = [];
    this.show(path);
  }

  async show(path) {
    this.path = path;
    this.back.disabled = !this.before.length;
    this.back.textContent = word("Back"); // now, since the language may have changed
    this.close.textContent = word("Close");
    const answer = await fetch(new URL(path, DOCS)).catch(() => null);
    const missing = () => (answer ? word("The page {} is not there ({}).", path, answer.status) : word("ComfyUI does not answer"));
    const text = answer?.ok ? await answer.text() : missing();
    if (this.path !== path) return; // another was asked for meanwhile
    this.article.innerHTML = app.extensionManager.renderMarkdownToHtml(text, new URL(".", new URL(path, DOCS)).href);
    this.dialog.setAttribute("aria-label", this.article.querySelector("h1")?.textContent ?? path);
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
  }
}

let reader = null;

function open(path) {
  reader ??= new Reader();
  reader.open(path);
}

document.addEventListener(
  "click",
  (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link) return;
    const path = pathOf(link.getAttribute("href"), reader?.article.contains(link) ? reader.path : "");
    if (!path) return;
    event.preventDefault();
    event.stopPropagation();
    open(path);
  },
  true,
);

const commands = Object.entries(GUIDES).map(([path, { id, label }]) => ({
  id,
  label,
  icon: "pi pi-book",
  function: () => open(translated(path)),
}));

app.registerExtension({
  name: "Chroma.Pages",
  commands,
  menuCommands: [{ path: ["Help"], commands: commands.map((command) => command.id) }],
});
