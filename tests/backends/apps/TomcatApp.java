// Servlets in Tomcat, as its guide shows them; Spring's HiddenHttpMethodFilter in short.
import jakarta.servlet.*;
import jakarta.servlet.http.*;
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import org.apache.catalina.startup.Tomcat;

public class TomcatApp {
    static String json(String text) {
        var written = new StringBuilder();
        for (char c : text.toCharArray()) written.append(String.format("\\u%04x", (int) c));
        return "\"" + written + "\"";
    }

    static String claim(String name, String claims) {
        var found = java.util.regex.Pattern.compile("\"" + name + "\":\\s*(\"[^\"]*\")").matcher(claims);
        return found.find() ? found.group(1) : "null";
    }

    static synchronized void tell(String handler, HttpServletRequest request, String... readings) throws IOException {
        String identity = request.getHeader("X-Verified-Identity");
        String claims = "";
        if (identity != null && identity.split("\\.").length > 1) {
            claims = new String(Base64.getUrlDecoder().decode(identity.split("\\.")[1]), StandardCharsets.UTF_8);
        }
        var phones = new ArrayList<String>();
        for (String reading : readings) {
            if (reading != null && !reading.isEmpty()) {
                phones.add(json(reading));
            }
        }
        String line = "{\"handler\": \"" + handler + "\", \"sub\": " + claim("sub", claims) + ", \"phones\": ["
            + String.join(", ", phones) + "], \"path\": " + json(request.getRequestURI()) + ", \"htu\": " + claim("htu", claims) + "}\n";
        Files.writeString(Path.of(System.getenv("REACHED")), line, StandardOpenOption.APPEND, StandardOpenOption.CREATE);
    }

    static class App extends HttpServlet {
        final String handler;

        App(String handler) {
            this.handler = handler;
        }

        @Override
        protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
            request.setCharacterEncoding("UTF-8");
            String method = request.getMethod();
            String hidden = "POST".equals(method) ? request.getParameter("_method") : null;
            if (hidden != null && List.of("PUT", "DELETE", "PATCH").contains(hidden.toUpperCase(Locale.ENGLISH))) {
                method = hidden.toUpperCase(Locale.ENGLISH);
            }
            switch (handler + " " + method) {
                case "register POST" -> {
                    String[] all = request.getParameterValues("phone");
                    tell("register", request, all == null ? new String[0] : all);
                }
                case "json POST" -> {
                    String body = new String(request.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
                    var found = java.util.regex.Pattern.compile("\"phone\"\\s*:\\s*\"?([^\",}]*)").matcher(body);
                    tell("register", request, found.find() ? found.group(1) : null);
                }
                case "send POST" -> tell("send", request);
                case "account PUT" -> tell("account", request);
                default -> { }
            }
            response.getWriter().write("{}");
        }
    }

    public static void main(String[] arguments) throws Exception {
        java.util.logging.LogManager.getLogManager().reset();
        var tomcat = new Tomcat();
        tomcat.setBaseDir(Files.createTempDirectory("tomcat").toString());
        tomcat.setHostname("localhost");
        tomcat.setPort(Integer.parseInt(arguments[0]));
        tomcat.getConnector().setProperty("address", "127.0.0.1");
        tomcat.getConnector().setParseBodyMethods("POST,PUT");
        var context = tomcat.addContext("", new File(".").getAbsolutePath());
        Map.of("/api/register", "register", "/api/query/register", "register", "/api/json/register", "json", "/api/sms/code", "send",
            "/api/json/sms/code", "send", "/api/account", "account", "/", "other").forEach((path, handler) -> {
                Tomcat.addServlet(context, path, new App(handler));
                context.addServletMappingDecoded(path, path);
            });
        tomcat.start();
        tomcat.getServer().await();
    }
}
