// The words of the page's own controls in the front end's language. What nodes tell comes from the server, in English.

import { app } from "../../../scripts/app.js";

const LANGUAGES = ["zh", "ja", "de"];
const WORDS = {
  "Apply": ["应用", "適用", "Anwenden"],
  "Applied": ["已应用", "適用済み", "Angewendet"],
  "Go to the node": ["转到该节点", "ノードへ移動", "Zum Knoten"],
  "Inserts {}": ["插入 {}", "{} を挿入", "Fügt {} ein"],
  "Report": ["报告", "レポート", "Bericht"],
  "Run to compare A and B": ["运行后比较 A 与 B", "実行すると A と B を比較できます", "Nach einem Lauf stehen hier A und B"],
  "How much of A is shown": ["A 显示的比例", "A の表示割合", "Wie viel von A zu sehen ist"],
  "Open as nodes": ["展开为节点", "ノードとして開く", "Als Knoten öffnen"],
  "The same graph as nodes on the canvas, in the place of this node; undo brings it back.": [
    "在画布上用同样的节点图代替本节点；可撤销。",
    "同じグラフをノードとしてこのノードの場所に置きます。元に戻せます。",
    "Derselbe Graph als Knoten, an der Stelle von diesem; Rückgängig holt ihn zurück.",
  ],
  "no steps": ["没有步", "ステップなし", "keine Schritte"],
  "{} step, {} above 0.5": ["{} 步，{} 步高于 0.5", "{} ステップ、0.5 より上は {}", "{} Schritt, {} über 0,5"],
  "{} steps, {} above 0.5": ["{} 步，{} 步高于 0.5", "{} ステップ、0.5 より上は {}", "{} Schritte, {} über 0,5"],
  "not known before the run": ["运行前未知", "実行前は不明", "vor dem Lauf nicht bekannt"],
  "for shift 1": ["按移位 1", "シフト 1 の場合", "für Shift 1"],
  "The model's shift is {}.": ["模型的移位为 {}。", "モデルのシフトは {} です。", "Der Shift des Modells ist {}."],
  "Drawn for a model of shift 1; this one's is not known.": [
    "按移位为 1 的模型绘制；此模型的移位未知。",
    "シフト 1 のモデルとして描いています。このモデルのシフトは不明です。",
    "Für ein Modell mit Shift 1 gezeichnet; der von diesem ist nicht bekannt.",
  ],
  "{} set by link": ["{} 由连线给出", "{} はリンクから", "{} kommt über eine Verbindung"],
  "{}: set by link, drawn with the node's own value.": [
    "{} 由连线给出，按节点自身的值绘制。",
    "{} はリンクから来ます。ノード自身の値で描いています。",
    "{}: kommt über eine Verbindung, gezeichnet mit dem eigenen Wert des Knotens.",
  ],
  "ComfyUI does not answer": ["ComfyUI 没有响应", "ComfyUI が応答しません", "ComfyUI antwortet nicht"],
  "{}: nothing is connected. Connect {}": [
    "{}：未连接。请连接 {}",
    "{}：接続されていません。{} を接続してください",
    "{}: Es ist nichts verbunden. Verbinde {}",
  ],
  "a node that gives {}": ["输出 {} 的节点", "{} を出力するノード", "einen Knoten, der {} liefert"],
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
