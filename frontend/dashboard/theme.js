// What was chosen before stands before the first paint: the theme, the rows' height, the language.
{
  const root = document.documentElement;
  const chosen = (name) => {
    try {
      return localStorage.getItem("rollcall-" + name);
    } catch {
      return null;
    }
  };
  const theme = chosen("theme");
  const rows = chosen("rows");
  if (theme) root.dataset.theme = theme;
  if (rows) root.dataset.rows = rows;
  if ((chosen("language") ?? navigator.language ?? "").startsWith("zh")) {
    root.lang = "zh-CN";
    // The words come beside the program, not after it.
    const words = document.createElement("link");
    Object.assign(words, { rel: "preload", as: "fetch", crossOrigin: "anonymous", href: "words/zh.txt" });
    document.head.append(words);
  }
}
