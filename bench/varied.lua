-- Every request with a target, a cookie, an agent and a referrer of its own, as many browsers behind one front proxy send.
local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", "/api/items/" .. n .. "?x=" .. (n * 7919 % 1000), {
    ["Host"] = "127.0.0.1",
    ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/" .. (100 + n % 40),
    ["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    ["Accept-Language"] = "en-US,en;q=0.5",
    ["Accept-Encoding"] = "gzip, deflate, br",
    ["Cookie"] = "session=" .. (n * 2654435761 % 4294967296) .. "; theme=dark",
    ["Referer"] = "https://www.example.com/list?page=" .. n,
  })
end
