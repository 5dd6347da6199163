// The words of the page's own controls in the front end's language, which has no German yet. What nodes tell comes from the
// server, in English. Names of commands are in locales, where the front end looks for them.

import { app } from "../../../scripts/app.js";

const LANGUAGES = ["zh", "ja", "de"];
const WORDS = {
  "Apply": ["应用", "適用", "Anwenden"],
  "Applied": ["已应用", "適用済み", "Angewendet"],
  "Go to the node": ["转到该节点", "ノードへ移動", "Zum Knoten"],
  "Inserts {}": ["插入“{}”", "「{}」を挿入", "Fügt „{}“ ein"],
  "Report": ["报告", "レポート", "Bericht"],
  "{} of {}": ["{}，共 {}", "{}（全 {}）", "{} von {}"],
  "ERROR: ": ["错误：", "エラー：", "FEHLER: "],
  "Run to compare A and B": ["运行后即可比较 A 与 B", "実行すると A と B を比較できます", "Nach einem Lauf lassen sich A und B hier vergleichen"],
  "How much of A is shown": ["A 的显示比例", "A の表示割合", "Wie viel von A zu sehen ist"],
  "Open as nodes": ["展开为节点", "ノードとして開く", "Als Knoten öffnen"],
  "The same graph as nodes on the canvas, in the place of this node; undo brings it back.": [
    "在画布上用内容相同的多个节点替换本节点；可撤销。",
    "同じ内容のグラフを、このノードの位置に個々のノードとして展開します。元に戻せます。",
    "Derselbe Graph als einzelne Knoten an der Stelle dieses Knotens; „Rückgängig“ holt ihn zurück.",
  ],
  "This ComfyUI has no node {}. Update ComfyUI.": [
    "当前的 ComfyUI 没有节点 {}。请更新 ComfyUI。",
    "この ComfyUI にはノード {} がありません。ComfyUI を更新してください。",
    "Dieses ComfyUI hat keinen Knoten {}. Bitte ComfyUI aktualisieren.",
  ],
  "no steps": ["0 步", "ステップなし", "keine Schritte"],
  "{} step, {} above 0.5": ["{} 步，其中 {} 步高于 0.5", "{} ステップ（0.5 超は {}）", "{} Schritt, {} über 0,5"],
  "{} steps, {} above 0.5": ["{} 步，其中 {} 步高于 0.5", "{} ステップ（0.5 超は {}）", "{} Schritte, {} über 0,5"],
  "Sigmas: {}, from {} to {}, then 0.": [
    "Sigma：{}，从 {} 到 {}，最后为 0。",
    "シグマ：{}、{} から {} まで、最後は 0。",
    "Sigmas: {}; von {} bis {}, dann 0.",
  ],
  "step {}: {} to {}": ["第 {} 步：{} 到 {}", "ステップ {}：{} から {}", "Schritt {}: {} bis {}"],
  "not known before the run": ["运行前未知", "実行前は不明", "vor dem Lauf nicht bekannt"],
  "shift {}": ["移位 {}", "シフト {}", "Shift {}"],
  "for shift 1": ["按移位 1", "シフト 1 の場合", "für Shift 1"],
  "The model's shift is {}.": ["模型的移位为 {}。", "モデルのシフトは {} です。", "Der Shift des Modells ist {}."],
  "Drawn for a model of shift 1; this one's is not known.": [
    "按移位为 1 的模型绘制；此模型的移位未知。",
    "シフト 1 のモデルとして描いています。このモデルのシフトは不明です。",
    "Für ein Modell mit Shift 1 gezeichnet; der Shift dieses Modells ist nicht bekannt.",
  ],
  "size": ["尺寸", "サイズ", "Größe"],
  "{} set by link": ["{} 由连线给出", "{} はリンクで指定", "{} kommt über eine Verbindung"],
  "{}: set by link, drawn with the node's own value.": [
    "{} 由连线给出，此处按节点自身的值绘制。",
    "{} はリンクで指定されています。ここではノード自身の値で描いています。",
    "{}: kommt über eine Verbindung, gezeichnet mit dem eigenen Wert des Knotens.",
  ],
  "ComfyUI does not answer": ["ComfyUI 没有响应", "ComfyUI が応答しません", "ComfyUI antwortet nicht"],
  "{}: nothing is connected. Connect {}": [
    "{}：未连接。请连接：{}",
    "{}：接続されていません。接続してください：{}",
    "{}: Es ist nichts verbunden. Hier fehlt: {}",
  ],
  "a node that gives {}": ["输出 {} 的节点", "{} を出力するノード", "ein Knoten, der {} liefert"],
  "Back": ["返回", "戻る", "Zurück"],
  "Close": ["关闭", "閉じる", "Schließen"],
  "The page {} is not there ({}).": ["没有页面 {}（{}）。", "ページ {} がありません（{}）。", "Die Seite {} gibt es nicht ({})."],
};

/** An English text in the front end's language, with values in the place of each {}; English where there is no other. */
export function word(text, ...values) {
  const language = LANGUAGES.indexOf(app.extensionManager?.setting.get("Comfy.Locale"));
  const found = WORDS[text]?.[language] ?? text;
  return found.replace(/{}/g, () => values.shift());
}
