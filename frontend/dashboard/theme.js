// The theme chosen before stands before the first paint.
try {
  const theme = localStorage.getItem("rollcall-theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {}
